#pragma once

#include <cstddef>
#include <cstdint>

#include "moxie/core/math.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/strips.hpp"

namespace moxie {

/// The numbers of one AdamW step, the same for all elements of a call.
template <class T>
struct AdamWFactors {
  T learning_rate;
  T decay;
  T beta1, beta2;
  T rest1, rest2;  ///< 1 - beta: from the doubles, since T(1) - T(0.999) is off in the sixth digit
  T correction1, correction2;  ///< 1 / (1 - beta^t) of both moments, t counting from 1
  T epsilon;
};

namespace detail {
/// sqrt(x) for x >= 0, within 1 unit in the last place, in arithmetic: a call that may set errno
/// keeps a loop from being vectorised, which costs this pass a factor of four.
MOXIE_HD MOXIE_INLINE float root(float x) {
  // 1 / sqrt(x): half the exponent, then Newton's steps, each of which doubles the digits.
  float r = math::detail::bits<float>(0x5f3759df - (math::detail::bits<std::int32_t>(x) >> 1));
  for (int step = 0; step < 3; ++step) r *= 1.5F - 0.5F * x * r * r;
  const float y = x * r;
  return math::select(math::is_finite(x), y + 0.5F * r * (x - y * y), x);
}
MOXIE_HD MOXIE_INLINE double root(double x) { return math::sqrt(x); }

/// A moment, or 0 before it is a denormal number, whose products take a hundred times as long: those of an expert that
/// gets no tokens decay to one and stay there. Such a moment moves nothing: its root is below 1e-15, and epsilon at least 1e-12.
MOXIE_HD MOXIE_INLINE float settled(float moment) {
  return math::select(math::abs(moment) < 1e-30F, 0.0F, moment);
}
MOXIE_HD MOXIE_INLINE double settled(double moment) { return moment; }

/// The step on N neighbours: values p, gradients g, moments m and v.
template <class T, std::size_t N>
MOXIE_HD MOXIE_INLINE void adam_w_step(const AdamWFactors<T>& f, T (&p)[N], const T (&g)[N],
                                       T (&m)[N], T (&v)[N]) {
  constexpr auto length = static_cast<Index>(N);
  for (Index i = 0; i < length; ++i) m[i] = settled(f.beta1 * m[i] + f.rest1 * g[i]);
  for (Index i = 0; i < length; ++i) v[i] = settled(f.beta2 * v[i] + f.rest2 * g[i] * g[i]);
  for (Index i = 0; i < length; ++i)
    p[i] -= f.learning_rate *
            (m[i] * f.correction1 / (root(v[i] * f.correction2) + f.epsilon) + f.decay * p[i]);
}

template <Backend B>
struct AdamWStrip {
  using T = typename B::Scalar;
  static constexpr Index length = flat_strip<B>;
  Vector<B> values;
  ConstVector<B> gradients;
  Vector<B> first, second;
  AdamWFactors<T> f;

  MOXIE_HD MOXIE_INLINE void operator()(Index s) const {
    const Index at = s * length;
    const Index n = strip_length<B>(s, values.size);
    StripArray<B> p, g, m, v;
    load_strip<B>(values.data + at, n, p);
    load_strip<B>(gradients.data + at, n, g);
    load_strip<B>(first.data + at, n, m);
    load_strip<B>(second.data + at, n, v);
    adam_w_step(f, p, g, m, v);
    store_strip<B>(m, n, first.data + at);
    store_strip<B>(v, n, second.data + at);
    store_strip<B>(p, n, values.data + at);
  }
};
}  // namespace detail

/// One AdamW step on flat vectors of one decay:
///   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
///   p -= learning_rate (m-hat / (sqrt(v-hat) + epsilon) + decay p).
/// values p, gradients g, first m, second v: [N] each, distinct memory.
/// Cost: one pass, 7 N scalars moved.
/// Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, in the form
/// of optax: epsilon outside the root, decay added after the scaling and multiplied by the learning
/// rate with it.
struct AdamWUpdate {
  template <Backend B>
  void operator()(B& b, Vector<B> values, ConstVector<B> gradients, Vector<B> first,
                  Vector<B> second, const AdamWFactors<typename B::Scalar>& factors) const {
    detail::run_or_generic(*this, b, values, gradients, first, second, factors);
  }
  template <Backend B>
  static void generic(B& b, Vector<B> values, ConstVector<B> gradients, Vector<B> first,
                      Vector<B> second, const AdamWFactors<typename B::Scalar>& factors) {
    b.for_each(detail::strips_of<B>(values.size),
               detail::AdamWStrip<B>{values, gradients, first, second, factors},
               detail::strip_grain);
  }
};
inline constexpr AdamWUpdate adam_w_update{};

}  // namespace moxie
