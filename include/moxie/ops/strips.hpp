#pragma once

#include "moxie/core/strip.hpp"

/// Element-wise passes over flat vectors, sixteen elements a call: loops of constant length over
/// local arrays vectorise at any machine level, where a loop over the whole vector would not. The
/// last strip is a full one whose surplus is neither read nor stored, so an element's bits do not
/// depend on where it lies.
namespace moxie::detail {

inline constexpr Index strip_grain = 512;  // strips a task: 8192 elements

MOXIE_HD MOXIE_INLINE constexpr Index strips_of(Index size) { return (size + strip - 1) / strip; }

/// Elements of strip `s` of a vector of `size`.
MOXIE_HD MOXIE_INLINE constexpr Index strip_length(Index s, Index size) {
  const Index left = size - s * strip;
  return left < strip ? left : strip;
}

template <class T>
MOXIE_HD MOXIE_INLINE void load_strip(const T* from, Index n, T* to) {
  if (n == strip) {
    for (Index i = 0; i < strip; ++i) to[i] = from[i];
  } else {
    for (Index i = 0; i < strip; ++i) to[i] = i < n ? from[i] : T(0);
  }
}

template <class T>
MOXIE_HD MOXIE_INLINE void store_strip(const T* from, Index n, T* to) {
  if (n == strip) {
    for (Index i = 0; i < strip; ++i) to[i] = from[i];
  } else {
    for (Index i = 0; i < n; ++i) to[i] = from[i];
  }
}

}  // namespace moxie::detail
