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
      // Four wherever the rest can still be cut into threes and fours: whole pairs of cache lines.
      if (left == 4 || left == 7 || left == 8 || left >= 10) return run<4>(j);
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
    const bool copy = !whole && last;
    const bool transposed = a.op == Op::transpose;
    const bool regular = packed_a != nullptr || transposed || (!a.index && !a.scale);
    const bool nothing =
        count == 0;  // to sum: nothing is read, factors may be null, and null takes no step
    // Where a's element (0, first of the stretch) is, and the next row and the next step from there.
    const T* left = packed_a != nullptr || nothing ? packed_a
                    : transposed                   ? a.data + inner * a.stride + row
                                                   : a.data + row * a.stride + inner;
    const Index left_row = nothing ? 0 : packed_a != nullptr || transposed ? 1 : a.stride;
    const Index left_step = packed_a != nullptr ? c.rows : transposed ? a.stride : 1;

    Array<T, height * width> edge;
    Array<T, width> spare;
    if (beta != T(0)) {  // they will be read
      for (Index k = 0; k < height * width; ++k) edge[k] = T(0);
      for (Index k = 0; k < width; ++k) spare[k] = T(0);
    }
    Array<const T*, height> from;
    Array<T*, height> to;
    Array<T, height> factor;
    for (Index r = 0; r < height; ++r) factor[r] = alpha;
    Kernel tile{count,     from,
                left_step, nothing ? b : b + j,
                b_step,    sums == nullptr ? nullptr : sums + j,
                sum_step,  to,
                factor,    beta,
                first,     last};
    for (Index i = 0; i < c.rows; i += height) {
      const Index rows = smaller(height, c.rows - i);
      T* const target = whole ? c.row(i) + j : edge;
      const Index target_row = whole ? c.stride : width;
      for (Index r = 0; r < height; ++r) from[r] = left + r * left_row;
      for (Index r = 0; r < height; ++r) to[r] = target + r * target_row;
      for (Index r = rows; r < height; ++r) {  // surplus rows
        from[r] = from[rows - 1];
        to[r] = spare;
      }
      if (!regular && !nothing) {
        for (Index r = 0; r < height; ++r) {
          const Index q = row + i + smaller(r, rows - 1);
          from[r] = a.row(q) + inner;
          factor[r] = alpha * a.factor(q);
        }
      }
      if (copy && beta != T(0)) copy_in(i, j, rows, width, edge);
      enter(L{}, tile);
      if (copy) copy_out(i, j, rows, width, edge);
      left += height * left_row;
      tile.sums += height * sum_step;
    }
    return N;
  }

  MOXIE_INLINE void copy_in(Index i, Index j, Index rows, Index width, T* edge) const {
    for (Index r = 0; r < rows; ++r) {
      copy_elements<T, L>(edge + r * width, c.row(i + r) + j, c.cols - j);
    }
  }
  MOXIE_INLINE void copy_out(Index i, Index j, Index rows, Index width, const T* edge) const {
    for (Index r = 0; r < rows; ++r) {
      copy_elements<T, L>(c.row(i + r) + j, edge + r * width, c.cols - j);
    }
  }
};

}  // namespace moxie::detail
