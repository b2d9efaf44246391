#pragma once

#include "moxie/core/host_device.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/view.hpp"

/// Reductions along a row that vectorise without a licence to reorder sums: a fixed number of partial results,
/// each over every 16th element, combined in a fixed order. The order is part of the result, so it is the same
/// on every machine level and backend.
namespace moxie::detail {

inline constexpr Index strip = 16;  // one AVX-512 vector of floats; part of the result

/// Sum of term(j) for j < n.
template <class T, class F>
MOXIE_HD MOXIE_INLINE T strip_sum(Index n, const F& term) {
  T part[strip] = {};
  Index j = 0;
  for (; j + strip <= n; j += strip)
    for (Index s = 0; s < strip; ++s) part[s] += term(j + s);
  for (Index s = 0; j + s < n; ++s) part[s] += term(j + s);
  for (Index width = strip / 2; width > 0; width /= 2)
    for (Index s = 0; s < width; ++s) part[s] += part[s + width];
  return part[0];
}

/// Largest value(j) for j < n; the lowest finite number if n is 0.
template <class T, class F>
MOXIE_HD MOXIE_INLINE T strip_maximum(Index n, const F& value) {
  T part[strip];
  for (Index s = 0; s < strip; ++s) part[s] = math::lowest<T>();
  Index j = 0;
  for (; j + strip <= n; j += strip)
    for (Index s = 0; s < strip; ++s) part[s] = math::maximum(part[s], value(j + s));
  for (Index s = 0; j + s < n; ++s) part[s] = math::maximum(part[s], value(j + s));
  for (Index width = strip / 2; width > 0; width /= 2)
    for (Index s = 0; s < width; ++s) part[s] = math::maximum(part[s], part[s + width]);
  return part[0];
}

}  // namespace moxie::detail
