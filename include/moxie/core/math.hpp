#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>

#include "moxie/core/host_device.hpp"

/// Elementary functions for functors that run on every backend.
///
/// The float forms are plain arithmetic without branches, tables or magic-number rounding: a loop over them
/// vectorises at any machine level, and host and device evaluate the same formula. The double forms, which
/// prove rather than train, call the standard library.
namespace moxie::math {

namespace detail {
template <class To, class From>
MOXIE_HD MOXIE_INLINE constexpr To bits(From v) {
  return __builtin_bit_cast(To, v);
}
}  // namespace detail

/// c ? a : b by an integer mask: a conditional on floats becomes a branch, which does not vectorise.
MOXIE_HD MOXIE_INLINE constexpr float select(bool c, float a, float b) {
  const std::int32_t mask = -static_cast<std::int32_t>(c);
  return detail::bits<float>((detail::bits<std::int32_t>(a) & mask) |
                             (detail::bits<std::int32_t>(b) & ~mask));
}
MOXIE_HD MOXIE_INLINE constexpr double select(bool c, double a, double b) {
  const std::int64_t mask = -static_cast<std::int64_t>(c);
  return detail::bits<double>((detail::bits<std::int64_t>(a) & mask) |
                              (detail::bits<std::int64_t>(b) & ~mask));
}

template <class T>
MOXIE_HD MOXIE_INLINE constexpr T maximum(T a, T b) {
  return a < b ? b : a;  // what a machine's maximum computes; as a mask it would stay scalar
}

/// Looks at the bits, so that a consumer's -ffast-math does not turn it into `true`.
MOXIE_HD MOXIE_INLINE constexpr bool is_finite(float v) {
  return (detail::bits<std::uint32_t>(v) & 0x7f800000U) != 0x7f800000U;
}
MOXIE_HD MOXIE_INLINE constexpr bool is_finite(double v) {
  return (detail::bits<std::uint64_t>(v) & 0x7ff0000000000000U) != 0x7ff0000000000000U;
}
MOXIE_HD MOXIE_INLINE constexpr bool is_nan(float v) {
  return (detail::bits<std::uint32_t>(v) & 0x7fffffffU) > 0x7f800000U;
}
MOXIE_HD MOXIE_INLINE constexpr bool is_nan(double v) {
  return (detail::bits<std::uint64_t>(v) & 0x7fffffffffffffffU) > 0x7ff0000000000000U;
}

/// The lowest finite number: what a masked score is set to.
template <std::floating_point T>
MOXIE_HD MOXIE_INLINE constexpr T lowest() {
  if constexpr (sizeof(T) == sizeof(float)) {
    return static_cast<T>(-3.402823466e+38F);
  } else {
    return static_cast<T>(-1.7976931348623157e+308);
  }
}

/// exp(x), within 2 units in the last place for -87 <= x <= 88; below and above it is exp(-87) and exp(88).
MOXIE_HD MOXIE_INLINE float exp(float x) {
  float y = select(x < -87.0F, -87.0F, x);
  y = select(y > 88.0F, 88.0F, y);
  // exp(y) = 2^n exp(r), |r| <= ln(2) / 2, ln(2) in two parts so that r is exact. NaN has no n; it passes through r.
  const float known = select(y == y, y, 0.0F);
  const auto n = static_cast<std::int32_t>(known * 1.44269504F + select(y < 0.0F, -0.5F, 0.5F));
  const auto f = static_cast<float>(n);
  const float r = (y - f * 0.693359375F) + f * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  return (p * r * r + r + 1.0F) * detail::bits<float>((n + 127) << 23);
}
MOXIE_HD MOXIE_INLINE double exp(double x) { return ::exp(x); }

/// log(x), within 1 unit in the last place; -infinity at 0, NaN below.
MOXIE_HD MOXIE_INLINE float log(float x) {
  const auto given = detail::bits<std::int32_t>(x);
  const bool small = x < 1.17549435e-38F;  // a denormal number has no exponent of its own
  const auto at = detail::bits<std::int32_t>(select(small, x * 8388608.0F, x));
  // x = 2^n (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); log(1 + f) = 2 atanh(s), s = f / (2 + f).
  const auto from_root = static_cast<std::int32_t>(static_cast<std::uint32_t>(at) - 0x3f3504f3U);
  const std::int32_t n = (from_root >> 23) - (small ? 23 : 0);
  const float f = detail::bits<float>((from_root & 0x007fffff) + 0x3f3504f3) - 1.0F;
  const auto scale = static_cast<float>(n);
  const float s = f / (2.0F + f);
  const float z = s * s;
  float p = 0.23330582F;
  p = p * z + 0.28550817F;
  p = p * z + 0.40000122F;
  p = p * z + 0.66666667F;
  const float half = 0.5F * f * f;
  // ln(2) in two parts, and the small summands first.
  const float rest = s * (half + z * p) + scale * -2.12194440e-4F;
  float y = scale * 0.693359375F - ((half - rest) - f);
  y = select((given & 0x7fffffff) == 0, -detail::bits<float>(0x7f800000), y);
  y = select(given < 0 && (given & 0x7fffffff) != 0, detail::bits<float>(0x7fc00000), y);
  return select(given >= 0x7f800000, x, y);  // infinity and NaN
}
MOXIE_HD MOXIE_INLINE double log(double x) { return ::log(x); }
MOXIE_HD MOXIE_INLINE float sqrt(float x) { return ::sqrtf(x); }
MOXIE_HD MOXIE_INLINE double sqrt(double x) { return ::sqrt(x); }
MOXIE_HD MOXIE_INLINE float abs(float x) { return ::fabsf(x); }
MOXIE_HD MOXIE_INLINE double abs(double x) { return ::fabs(x); }

/// 1 / (1 + exp(-x)).
template <std::floating_point T>
MOXIE_HD MOXIE_INLINE T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}
/// Within 2e-7 of the truth, which is not a small relative error near 0.
MOXIE_HD MOXIE_INLINE float tanh(float x) { return 2.0F * sigmoid(2.0F * x) - 1.0F; }
MOXIE_HD MOXIE_INLINE double tanh(double x) { return ::tanh(x); }

/// log(1 + exp(x)) without overflow.
template <std::floating_point T>
MOXIE_HD MOXIE_INLINE T softplus(T x) {
  const T positive = select(x > T(0), x, T(0));
  return positive + log(T(1) + exp(-abs(x)));
}

/// Density of the standard normal. In float within 4 units in the last place, and 0 beyond 11 deviations, where it is
/// 2e-27: what is multiplied with less soon is a denormal number, and a product of those takes a hundred times as long.
MOXIE_HD MOXIE_INLINE float normal_density(float z) {
  float t = abs(z);
  t = select(t > 11.5F, 11.5F, t);
  // t^2 = a^2 + (t - a)(t + a), a with half of the digits: its square is exact, and the rest is below 0.02.
  const float a = detail::bits<float>(detail::bits<std::int32_t>(t) & ~0xfff);
  const float r = -0.5F * (t - a) * (t + a);
  const float rest = ((0.16666667F * r + 0.5F) * r + 1.0F) * r + 1.0F;
  return select(t > 11.0F, 0.0F, 0.39894228F * exp(-0.5F * a * a) * rest);
}
MOXIE_HD MOXIE_INLINE double normal_density(double z) {
  return 0.3989422804014327 * exp(-0.5 * z * z);
}

/// Distribution function of the standard normal. In float within 8 units in the last place, small values too, and 0
/// below -11.
MOXIE_HD MOXIE_INLINE float normal_distribution(float z) {
  // The tail beyond t over the density is nearly 1 / t: (t + 3) times that is a polynomial in (t - 3) / (t + 3).
  float t = abs(z);
  t = select(t > 11.5F, 11.5F, t);
  const float d = 1.0F / (t + 3.0F);
  const float y = (t - 3.0F) * d;
  float p = 7.8091984e-5F;
  p = p * y - 5.9210907e-4F;
  p = p * y - 2.3527312e-3F;
  p = p * y + 2.6187418e-3F;
  p = p * y + 1.7393367e-2F;
  p = p * y - 2.6244686e-2F;
  p = p * y - 1.1846039e-1F;
  p = p * y + 5.7657068e-1F;
  p = p * y - 1.2767063F;
  p = p * y + 1.8275418F;
  const float tail = normal_density(z) * (p * d);
  return select(z > 0.0F, 1.0F - tail, tail);
}
MOXIE_HD MOXIE_INLINE double normal_distribution(double z) {
  return 0.5 * ::erfc(z * -0.7071067811865476);
}

}  // namespace moxie::math
