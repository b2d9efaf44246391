#pragma once

#include <cstddef>
#include <type_traits>

#include "moxie/core/host_device.hpp"
#include "moxie/core/view.hpp"

/// Element-wise passes over flat vectors, a strip of elements a call. On a host, loops of constant
/// length over local arrays vectorise at any machine level, where a loop over the whole vector
/// would not; on a device a strip is one element, so that neighbours in memory are neighbours in a
/// warp. The last strip is a full one whose surplus is neither read nor stored: an element's bits
/// do not depend on where it lies.
namespace moxie::detail {

// 64: shorter loops Clang unrolls instead, and then finds no vectors; longer ones leave the
// registers.
template <class B>
inline constexpr Index flat_strip = std::is_same_v<typename B::Space, HostSpace> ? 64 : 1;

template <class B>
MOXIE_HD MOXIE_INLINE constexpr Index strips_of(Index size) {
  return (size + flat_strip<B> - 1) / flat_strip<B>;
}

/// A strip on the stack.
template <class B>
using StripArray = typename B::Scalar[static_cast<std::size_t>(flat_strip<B>)];

inline constexpr Index strip_grain = 128;  // strips a task: 8192 elements on a host

/// Elements of strip `s` of a vector of `size`.
template <class B>
MOXIE_HD MOXIE_INLINE constexpr Index strip_length(Index s, Index size) {
  const Index left = size - s * flat_strip<B>;
  return left < flat_strip<B> ? left : flat_strip<B>;
}

template <class B, class T>
MOXIE_HD MOXIE_INLINE void load_strip(const T* from, Index n, T* to) {
  constexpr Index length = flat_strip<B>;
  if (n == length) {
    for (Index i = 0; i < length; ++i) to[i] = from[i];
  } else {
    for (Index i = 0; i < length; ++i) to[i] = i < n ? from[i] : T(0);
  }
}

template <class B, class T>
MOXIE_HD MOXIE_INLINE void store_strip(const T* from, Index n, T* to) {
  constexpr Index length = flat_strip<B>;
  if (n == length) {
    for (Index i = 0; i < length; ++i) to[i] = from[i];
  } else {
    for (Index i = 0; i < n; ++i) to[i] = from[i];
  }
}

}  // namespace moxie::detail
