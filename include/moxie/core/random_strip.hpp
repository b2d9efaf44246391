#pragma once

#include <cstddef>
#include <cstdint>

#include "moxie/core/random.hpp"
#include "moxie/core/view.hpp"

/// Random numbers by the strip: four from each of N blocks of Philox, in loops of constant length that become
/// vectors at any machine level.
///
/// Noise decides which expert a token gets, so its bits are the same on every level, backend and device: the
/// arithmetic is in double, without the standard library, and no compiler may fuse a product of it with a sum.
namespace moxie::detail {

/// Products that are rounded by themselves. A compiler for a machine with a fused multiply-add would use it where the
/// target has it; a number of zero bits that it does not know, or-ed into each product, keeps it from that.
class Unfused {
 public:
  MOXIE_HD MOXIE_INLINE Unfused() {
    volatile std::uint64_t unknown = 0;
    zero_ = unknown;
  }
  MOXIE_HD MOXIE_INLINE double operator()(double a, double b) const {
    return __builtin_bit_cast(double, __builtin_bit_cast(std::uint64_t, a * b) | zero_);
  }

 private:
  std::uint64_t zero_;
};

/// An integer below 2^52 as a double, without an instruction that some levels lack.
MOXIE_HD MOXIE_INLINE double as_double(std::uint64_t i) {
  return __builtin_bit_cast(double, i | 0x4330000000000000U) - 4503599627370496.0;
}
/// (w + 1/2) / 2^32: uniform in (0, 1), both ends excluded.
MOXIE_HD MOXIE_INLINE double open_uniform(std::uint32_t w) {
  return (as_double(w) + 0.5) * (1.0 / 4294967296.0);  // exact
}
/// log(x) of a normal number x > 0, within 1e-11 of it relatively.
MOXIE_HD MOXIE_INLINE double log_of_normal(const Unfused& times, double x) {
  // As math::log: x = 2^n (1 + f), log(1 + f) = 2 s (1 + ...), s = f / (2 + f).
  const std::uint64_t from_root =
      __builtin_bit_cast(std::uint64_t, x) + (0x3ff0000000000000U - 0x3fe6a09e667f3bcdU);
  const double n = as_double(from_root >> 52U) - 1023.0;
  const double f =
      __builtin_bit_cast(double, (from_root & 0x000fffffffffffffU) + 0x3fe6a09e667f3bcdU) - 1.0;
  const double s = f / (2.0 + f);
  const double z = times(s, s);
  double p = 0.19362776836747534;
  p = times(p, z) + 0.22191394493175058;
  p = times(p, z) + 0.28571754635732760;
  p = times(p, z) + 0.39999998796848674;
  p = times(p, z) + 0.66666666667375449;
  return times(n, 0.6931471805599453) + times(s, 2.0 + times(p, z));
}
/// sqrt(x) of a normal number x > 0, within 1 unit in the last place: a call of the standard one may set errno, so that
/// no loop over it becomes vectors.
MOXIE_HD MOXIE_INLINE double root_of_normal(const Unfused& times, double x) {
  // 1 / sqrt(x): half the exponent, then Newton's steps, each of which doubles the digits.
  double r = __builtin_bit_cast(double,
                                0x5fe6eb50c7b537a9U - (__builtin_bit_cast(std::uint64_t, x) >> 1U));
  const double half = 0.5 * x;  // exact
  r = times(r, 1.5 - times(times(half, r), r));
  r = times(r, 1.5 - times(times(half, r), r));
  r = times(r, 1.5 - times(times(half, r), r));
  const double y = times(x, r);
  return y + times(0.5 * r, x - times(y, y));
}
/// Cosine and sine of 2 pi w / 2^32, within 1e-11.
MOXIE_HD MOXIE_INLINE void cos_sin_of_turn(const Unfused& times, std::uint32_t w, double& cosine,
                                           double& sine) {
  // A quarter of a turn, and an angle of at most an eighth to either side of its begin.
  const std::uint32_t from_eighth = w + 0x20000000U;
  const std::uint64_t quarter = from_eighth >> 30U;
  const double x =
      times(as_double(from_eighth & 0x3fffffffU) - 536870912.0, 6.283185307179586 / 4294967296.0);
  const double z = times(x, x);
  double s = 2.7249925803059792e-6;
  s = times(s, z) - 1.9840086735384846e-4;
  s = times(s, z) + 8.3333318747102088e-3;
  s = times(s, z) - 0.16666666663855290;
  s = x + times(times(x, z), s);
  double c = -2.7237140418015999e-7;
  c = times(c, z) + 2.4799862190148396e-5;
  c = times(c, z) - 1.3888885091399198e-3;
  c = times(c, z) + 4.1666666637396072e-2;
  c = times(c, z) - 0.49999999999963891;
  c = 1.0 + times(c, z);
  // Turned by quarters: (c, s), (-s, c), (-c, -s), (s, -c).
  const std::uint64_t swapped = std::uint64_t{0} - (quarter & 1U);
  const auto of_c = __builtin_bit_cast(std::uint64_t, c);
  const auto of_s = __builtin_bit_cast(std::uint64_t, s);
  const std::uint64_t first = (of_s & swapped) | (of_c & ~swapped);
  const std::uint64_t second = (of_c & swapped) | (of_s & ~swapped);
  cosine = __builtin_bit_cast(double, first ^ (((quarter + 1U) & 2U) << 62U));
  sine = __builtin_bit_cast(double, second ^ ((quarter & 2U) << 62U));
}

/// The bits of N blocks, counted by (i, j): word[w][s] is word w of block s.
template <Index N>
struct BlockStrip {
  std::uint32_t word[4][static_cast<std::size_t>(N)];

  MOXIE_HD MOXIE_INLINE BlockStrip(const Random& random, const std::uint64_t* i,
                                   const std::uint64_t* j) {
    for (Index s = 0; s < N; ++s) {
      const Philox::Block block = random.block(i[s], j[s]);
      word[0][s] = block.v[0];
      word[1][s] = block.v[1];
      word[2][s] = block.v[2];
      word[3][s] = block.v[3];
    }
  }
};

/// Four standard normals a block, by Box-Muller: words 0 and 1 give the first two (cosine, sine), words 2 and 3 the others.
struct NormalStrip {
  template <Index N>
  MOXIE_HD MOXIE_INLINE static void draw(const BlockStrip<N>& bits, const Unfused& times,
                                         double (&out)[4][static_cast<std::size_t>(N)]) {
    for (int pair = 0; pair < 2; ++pair)
      for (Index s = 0; s < N; ++s) {
        const double log_u = log_of_normal(times, open_uniform(bits.word[2 * pair][s]));
        const double square = -2.0 * log_u;  // exact
        const double radius = root_of_normal(times, square);
        double cosine;
        double sine;
        cos_sin_of_turn(times, bits.word[2 * pair + 1][s], cosine, sine);
        out[2 * pair][s] = times(radius, cosine);
        out[2 * pair + 1][s] = times(radius, sine);
      }
  }
};

/// Four draws of Gumbel(0, 1) a block, -log(-log(u)), one a word.
struct GumbelStrip {
  template <Index N>
  MOXIE_HD MOXIE_INLINE static void draw(const BlockStrip<N>& bits, const Unfused& times,
                                         double (&out)[4][static_cast<std::size_t>(N)]) {
    for (int w = 0; w < 4; ++w)
      for (Index s = 0; s < N; ++s)
        out[w][s] = -log_of_normal(times, -log_of_normal(times, open_uniform(bits.word[w][s])));
  }
};

}  // namespace moxie::detail
