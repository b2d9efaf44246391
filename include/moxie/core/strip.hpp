#pragma once

#include "moxie/core/host_device.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/view.hpp"

/// Reductions along a row that vectorise without a licence to reorder sums: a fixed number of partial results,
/// each over every 16th element, combined in a fixed order. The order is part of the result, so it is the same
/// on every machine level and backend.
namespace moxie::detail {

inline constexpr Index strip = 16;  // one AVX-512 vector of floats; part of the result

/// What `Rest` of the functions of rows may be for rows that are no multiple of a strip, such as those of few experts:
/// more code, in which half a strip is a vector too. It changes no bits.
inline constexpr Index half_strip = strip / 2;

/// Sum of term(j) for j < n.
MOXIE_CALLS_GIVEN
template <class T, Index Rest = 1, class F>
MOXIE_HD MOXIE_INLINE T strip_sum(Index n, const F& term) {
  T part[strip] = {};
  Index j = 0;
  for (; j + strip <= n; j += strip)
    for (Index s = 0; s < strip; ++s) part[s] += term(j + s);
  Index s = 0;
  if constexpr (Rest > 1) {
    if (j + Rest <= n) {
      for (; s < Rest; ++s) part[s] += term(j + s);
    }
  }
  for (; j + s < n; ++s) part[s] += term(j + s);
  for (Index width = strip / 2; width > 0; width /= 2)
    for (Index k = 0; k < width; ++k) part[k] += part[k + width];
  return part[0];
}

/// Largest value(j) for j < n; `least` if n is 0.
MOXIE_CALLS_GIVEN
template <class T, Index Rest = 1, class F>
MOXIE_HD MOXIE_INLINE T strip_maximum(Index n, const F& value, T least) {
  T part[strip];
  for (Index s = 0; s < strip; ++s) part[s] = least;
  Index j = 0;
  for (; j + strip <= n; j += strip)
    for (Index s = 0; s < strip; ++s) part[s] = math::maximum(part[s], value(j + s));
  Index s = 0;
  if constexpr (Rest > 1) {
    if (j + Rest <= n) {
      for (; s < Rest; ++s) part[s] = math::maximum(part[s], value(j + s));
    }
  }
  for (; j + s < n; ++s) part[s] = math::maximum(part[s], value(j + s));
  for (Index width = strip / 2; width > 0; width /= 2)
    for (Index k = 0; k < width; ++k) part[k] = math::maximum(part[k], part[k + width]);
  return part[0];
}
/// The lowest finite number if n is 0.
MOXIE_CALLS_GIVEN
template <class T, Index Rest = 1, class F>
MOXIE_HD MOXIE_INLINE T strip_maximum(Index n, const F& value) {
  return strip_maximum<T, Rest>(n, value, math::lowest<T>());
}

}  // namespace moxie::detail
