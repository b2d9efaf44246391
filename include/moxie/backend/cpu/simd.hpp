#pragma once

#include <cstddef>
#include <cstring>
#include <utility>

#include "moxie/backend/cpu/level.hpp"

/// Vectors of the compiler (GNU vector extensions). They never cross a function by value: how they would be
/// passed depends on the instruction set of the caller.
namespace moxie::detail {

template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};
template <class T, class L>
using Vec = typename VectorOf<T, L::bytes>::type;
/// Elements of a vector.
template <class T, class L>
inline constexpr Index lanes = L::bytes / static_cast<Index>(sizeof(T));

/// A C array with a signed size: vectors and row pointers stay in registers only as plain arrays.
template <class T, Index N>
using Array = T[static_cast<std::size_t>(N)];

template <class V, class T>
MOXIE_INLINE void load(V& v, const T* p) {
  std::memcpy(&v, p, sizeof v);
}
template <class V, class T>
MOXIE_INLINE void store(T* p, const V& v) {
  std::memcpy(p, &v, sizeof v);
}

/// out = the lanes I... of a and b, counted through both. nvcc's front end expands no pack in the arguments of
/// Clang's builtin, and Clang does not know GCC's.
template <class V, int... I>
MOXIE_INLINE void shuffle(const V& a, const V& b, V& out,
                          std::integer_sequence<int, I...> /*lanes*/) {
#if defined(__clang__)
  out = __builtin_shufflevector(a, b, I...);
#else
  const decltype(a < b) lanes = {I...};
  out = __builtin_shuffle(a, b, lanes);
#endif
}

/// Copies fewer elements than a vector holds, by halves: every piece has a constant size.
template <class T, class L>
MOXIE_INLINE void copy_rest(T* to, const T* from, Index n) {
  MOXIE_CPU_UNROLL
  for (Index piece = lanes<T, L> / 2; piece > 0; piece /= 2) {
    if ((n & piece) == 0) continue;
    __builtin_memcpy(to, from, static_cast<std::size_t>(piece) * sizeof(T));
    to += piece;
    from += piece;
  }
}
/// Copies any number of elements.
template <class T, class L>
MOXIE_INLINE void copy_elements(T* to, const T* from, Index n) {
  for (; n >= lanes<T, L>; n -= lanes<T, L>, to += lanes<T, L>, from += lanes<T, L>) {
    __builtin_memcpy(to, from, L::bytes);
  }
  copy_rest<T, L>(to, from, n);
}

}  // namespace moxie::detail
