#pragma once

#include <cstddef>

#include "moxie/core/strip.hpp"

namespace moxie::detail {

/// to[j] = value(j) for j < n. A strip of values is complete before the first of it is stored, so
/// that the compiler need not know whether `to` overlaps what `value` reads; `to` may be what
/// `value(j)` reads at j.
MOXIE_CALLS_GIVEN
template <Index Rest = 1, class T, class F>
MOXIE_HD MOXIE_INLINE void row_map(Index n, T* to, const F& value) {
  Index j = 0;
  for (; j + strip <= n; j += strip) {
    T part[strip];
    for (Index s = 0; s < strip; ++s) part[s] = value(j + s);
    for (Index s = 0; s < strip; ++s) to[j + s] = part[s];
  }
  if constexpr (Rest > 1) {
    for (; j + Rest <= n; j += Rest) {
      T part[static_cast<std::size_t>(Rest)];
      for (Index s = 0; s < Rest; ++s) part[s] = value(j + s);
      for (Index s = 0; s < Rest; ++s) to[j + s] = part[s];
    }
  }
  for (; j < n; ++j) to[j] = value(j);
}

/// to[j] = value(j), or += with `Add`, as row_map; returns the sum of value(j) in the order of strip_sum.
MOXIE_CALLS_GIVEN
template <bool Add, class T, class F>
MOXIE_HD MOXIE_INLINE T row_map_sum(Index n, T* to, const F& value) {
  T sum[strip] = {};
  Index j = 0;
  for (; j + strip <= n; j += strip) {
    T part[strip];
    for (Index s = 0; s < strip; ++s) part[s] = value(j + s);
    for (Index s = 0; s < strip; ++s) to[j + s] = Add ? to[j + s] + part[s] : part[s];
    for (Index s = 0; s < strip; ++s) sum[s] += part[s];
  }
  Index s = 0;
  if (j + half_strip <= n) {
    T part[half_strip];
    for (Index k = 0; k < half_strip; ++k) part[k] = value(j + k);
    for (Index k = 0; k < half_strip; ++k) to[j + k] = Add ? to[j + k] + part[k] : part[k];
    for (Index k = 0; k < half_strip; ++k) sum[k] += part[k];
    s = half_strip;
  }
  for (; j + s < n; ++s) {
    const T part = value(j + s);
    to[j + s] = Add ? to[j + s] + part : part;
    sum[s] += part;
  }
  for (Index width = strip / 2; width > 0; width /= 2)
    for (Index k = 0; k < width; ++k) sum[k] += sum[k + width];
  return sum[0];
}

/// Rows of `cols` elements that one task of an element-wise pass takes: enough work to be worth a
/// task, and single rows where a row is a whole image.
constexpr Index row_grain(Index cols) {
  constexpr Index elements = 8192;
  return cols < elements && cols > 0 ? elements / cols : 1;
}

}  // namespace moxie::detail
