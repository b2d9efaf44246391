#pragma once

#include "moxie/backend/cpu/pack.hpp"
#include "moxie/backend/cpu/partition.hpp"
#include "moxie/backend/cpu/tile.hpp"

namespace moxie::detail {

/// A block of a product over one stretch of the inner dimension, computed panel by panel: columns as wide as
/// a tile, down all rows, so that the right factor's panel stays in the first-level cache.
///
/// An edge tile is a whole tile: surplus rows store to a spare row, surplus columns to a copy.
template <class T, class L>
struct Panel {
  Factor<T> a;
  const T* packed_a;  // (i, p) at packed_a[p * c.rows + i]; null: read a where it lies
  const T* b;         // (p, j) at b[p * b_step + j], padded with zeros to whole vectors
  Index b_step;
  MatrixView<T> c;  // the block
  T* sums;          // unfinished sums of the block
  Index sum_step;
  Index row;           // of the block's first row among the product's
  Index inner, count;  // the stretch
  T alpha, beta;
  bool first, last;  // of the stretches

  /// The next panel at column j, where `left` vectors remain. Returns how many it took.
  MOXIE_INLINE Index next(Index j, Index left) const {
    if constexpr (L::vectors >= 4) {
      if (left == 4) return run<4>(j);  // rather than three and a narrow rest
    }
    if constexpr (L::vectors >= 3) {
      if (left >= 3) return run<3>(j);
    }
    if (left >= 2) return run<2>(j);
    return run<1>(j);
  }

 private:
  template <int N>
  MOXIE_INLINE Index run(Index j) const {
    using Kernel = Tile<T, L, N>;
    constexpr Index height = Kernel::rows;
    constexpr Index width = Kernel::cols;
    const bool whole = c.cols - j >= width;
    const Index cols = whole ? width : c.cols - j;
    const bool transposed = a.op == Op::transpose;
    const Index a_step = packed_a != nullptr ? c.rows : transposed ? a.stride : 1;
    Array<T, width> spare = {};
    Array<T, height * width> edge;
    for (Index i = 0; i < c.rows; i += height) {
      const Index rows = smaller(height, c.rows - i);
      Array<const T*, height> left;
      Array<T*, height> out;
      Array<T, height> factor;
      for (Index r = 0; r < height; ++r) {
        const Index q = i + smaller(r, rows - 1);
        factor[r] = alpha;
        if (packed_a != nullptr) {
          left[r] = packed_a + q;
        } else if (transposed) {
          left[r] = a.data + inner * a.stride + row + q;
        } else {
          left[r] = a.row(row + q) + inner;
          factor[r] *= a.factor(row + q);
        }
        out[r] = r >= rows ? spare : whole ? c.row(q) + j : edge + r * width;
      }
      const bool copy = !whole && last;
      if (copy && beta != T(0)) {
        for (Index r = 0; r < rows; ++r) {
          for (Index k = 0; k < width; ++k) edge[r * width + k] = k < cols ? c(i + r, j + k) : T(0);
        }
      }
      enter(L{}, Kernel{count, left, a_step, b + j, b_step, sums + i * sum_step + j, sum_step, out,
                        factor, beta, first, last});
      if (copy) {
        for (Index r = 0; r < rows; ++r) {
          for (Index k = 0; k < cols; ++k) c(i + r, j + k) = edge[r * width + k];
        }
      }
    }
    return N;
  }
};

}  // namespace moxie::detail
