#pragma once

#include <cstdint>
#include <utility>

#include "moxie/backend/cpu/partition.hpp"
#include "moxie/backend/cpu/simd.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail {

/// A factor of a product: a stored matrix, read as it lies or transposed, whose stored rows may be picked by
/// `index` and multiplied by `scale`.
template <class T>
struct Factor {
  const T* data = nullptr;
  Index stride = 0;
  Op op = Op::none;
  const std::int32_t* index = nullptr;
  const T* scale = nullptr;

  MOXIE_INLINE const T* row(Index i) const {
    return data + (index != nullptr ? static_cast<Index>(index[i]) : i) * stride;
  }
  MOXIE_INLINE T factor(Index i) const { return scale != nullptr ? scale[i] : T(1); }
};

/// out[p * step + j] = stored row p0 + p, element j0 + j: a copy of `count` rows; zeros up to `step`, which
/// is `cols`, or that rounded up to a vector.
template <class T, class L>
MOXIE_INLINE void pack_rows(const Factor<T>& f, Index p0, Index count, Index j0, Index cols,
                            Index step, T* out) {
  using V = Vec<T, L>;
  constexpr Index width = lanes<T, L>;
  for (Index p = 0; p < count; ++p, out += step) {
    const T* from = f.row(p0 + p) + j0;
    const V factor = f.factor(p0 + p) - V{};
    Index j = 0;
    for (; j + width <= cols; j += width) {
      V v;
      load(v, from + j);
      v *= factor;
      store(out + j, v);
    }
    if (j < cols) {
      V v{};
      Array<T, width> rest = {};
      copy_rest<T, L>(rest, from + j, cols - j);
      load(v, rest);
      v *= factor;
      store(rest, v);
      copy_elements<T, L>(out + j, rest, smaller(width, step - j));
    }
  }
}

/// low, high = the two halves of a0 b0 a1 b1 ...
template <class V, int... I>
MOXIE_INLINE void interleave(const V& a, const V& b, V& low, V& high,
                             std::integer_sequence<int, I...> /*lanes*/) {
  constexpr int n = sizeof...(I);
  shuffle(a, b, low, std::integer_sequence<int, (I / 2 + I % 2 * n)...>{});
  shuffle(a, b, high, std::integer_sequence<int, (I / 2 + I % 2 * n + n / 2)...>{});
}

/// out[p * step + i] = from[i][p], a block of one vector squared, in registers.
template <class T, class L>
MOXIE_INLINE void transpose_block(const T* const* from, T* out, Index step) {
  using V = Vec<T, L>;
  constexpr int width = static_cast<int>(lanes<T, L>);
  Array<V, width> v;
  MOXIE_CPU_UNROLL
  for (int i = 0; i < width; ++i) load(v[i], from[i]);
  // Interleaving row i with row i + width / 2, log2(width) times, is a transposition.
  MOXIE_CPU_UNROLL
  for (int round = 1; round < width; round *= 2) {
    Array<V, width> w;
    MOXIE_CPU_UNROLL
    for (int i = 0; i < width / 2; ++i) {
      interleave(v[i], v[i + width / 2], w[2 * i], w[2 * i + 1],
                 std::make_integer_sequence<int, width>{});
    }
    MOXIE_CPU_UNROLL
    for (int i = 0; i < width; ++i) v[i] = w[i];
  }
  MOXIE_CPU_UNROLL
  for (int i = 0; i < width; ++i) store(out + i * step, v[i]);
}

/// out[p * step + j] = stored row j0 + j, element p0 + p; zeros in columns up to `padded`, a multiple of a
/// vector.
template <class T>
struct PackTransposed {
  const Factor<T>& f;
  Index p0, count, j0, cols, padded, step;
  T* out;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    constexpr Index width = lanes<T, L>;
    const Array<T, width> zeros = {};
    for (Index j = 0; j < padded; j += width) {
      Array<const T*, width> from;
      Array<Index, width> advance;  // columns that do not exist read the same zeros every time
      for (Index i = 0; i < width; ++i) {
        const bool exists = j + i < cols;
        from[i] = exists ? f.row(j0 + j + i) + p0 : zeros;
        advance[i] = exists ? 1 : 0;
      }
      for (Index p = 0; p < count;) {
        if (count < width) {
          for (Index i = 0; i < width; ++i) out[p * step + j + i] = from[i][p * advance[i]];
          ++p;
          continue;
        }
        // The last block reaches back over what is done already.
        const Index at = smaller(p, count - width);
        Array<const T*, width> block;
        for (Index i = 0; i < width; ++i) block[i] = from[i] + at * advance[i];
        transpose_block<T, L>(block, out + at * step + j, step);
        p = at + width;
      }
    }
  }
};

// Entered, not inlined: once a level in a program, however many kernels pack.
template <class T, class L>
MOXIE_INLINE void pack_transposed(const Factor<T>& f, Index p0, Index count, Index j0, Index cols,
                                  Index padded, Index step, T* out) {
  enter(L{}, PackTransposed<T>{f, p0, count, j0, cols, padded, step, out});
}
/// The same with rows of `out` as long as the columns are padded.
template <class T, class L>
MOXIE_INLINE void pack_transposed(const Factor<T>& f, Index p0, Index count, Index j0, Index cols,
                                  Index padded, T* out) {
  pack_transposed<T, L>(f, p0, count, j0, cols, padded, padded, out);
}

/// Copies `rows` rows of `cols` elements.
template <class T>
struct CopyBlock {
  const T* from;
  Index from_step;
  T* to;
  Index to_step, rows, cols;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    for (Index r = 0; r < rows; ++r)
      copy_elements<T, L>(to + r * to_step, from + r * from_step, cols);
  }
};
/// Entered as well.
template <class T, class L>
MOXIE_INLINE void copy_block(const T* from, Index from_step, T* to, Index to_step, Index rows,
                             Index cols) {
  enter(L{}, CopyBlock<T>{from, from_step, to, to_step, rows, cols});
}

}  // namespace moxie::detail
