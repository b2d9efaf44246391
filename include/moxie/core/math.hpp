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

template <std::floating_point T>
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

MOXIE_HD MOXIE_INLINE float log(float x) { return ::logf(x); }
MOXIE_HD MOXIE_INLINE double log(double x) { return ::log(x); }
MOXIE_HD MOXIE_INLINE float sqrt(float x) { return ::sqrtf(x); }
MOXIE_HD MOXIE_INLINE double sqrt(double x) { return ::sqrt(x); }
MOXIE_HD MOXIE_INLINE float abs(float x) { return ::fabsf(x); }
MOXIE_HD MOXIE_INLINE double abs(double x) { return ::fabs(x); }
MOXIE_HD MOXIE_INLINE float erf(float x) { return ::erff(x); }
MOXIE_HD MOXIE_INLINE double erf(double x) { return ::erf(x); }

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

/// Density and distribution function of the standard normal.
template <std::floating_point T>
MOXIE_HD MOXIE_INLINE T normal_density(T z) {
  return T(0.3989422804014327) * exp(T(-0.5) * z * z);
}
template <std::floating_point T>
MOXIE_HD MOXIE_INLINE T normal_distribution(T z) {
  return T(0.5) * (T(1) + erf(z * T(0.7071067811865476)));
}

}  // namespace moxie::math
