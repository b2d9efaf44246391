#pragma once

#include "moxie/backend/cpu/pack.hpp"
#include "moxie/backend/cpu/panel.hpp"
#include "moxie/backend/cpu/partition.hpp"

namespace moxie::detail {

/// Memory of one task, on its stack: 290 KiB at most.
template <class T>
struct BlockMemory {
  static constexpr BlockShape shape = block_shape<T>(Op::transpose, 0);
  alignas(64) Array<T, shape.inner * shape.cols> b;
  alignas(64) Array<T, shape.inner * shape.rows> a;
  alignas(64) Array<T, shape.rows * shape.cols> sums;
};

/// c = alpha op(a) op(b) + beta c for a block of c, where row i of c is also multiplied by a.scale[i] if a is
/// read as it lies; scales of rows along the inner dimension are multiplied in while packing.
template <class T>
struct BlockProduct {
  Factor<T> a, b;
  T* c;
  Index c_stride;
  Index first_row, rows, first_col, cols;  // of c
  Index first_inner, inner;                // of the inner dimension
  T alpha, beta;

  template <class L>
  MOXIE_INLINE void run(L, BlockMemory<T>& memory) const {
    const BlockShape shape = block_shape<T>(a.op, inner);
    for (Index row = 0; row < rows; row += shape.rows) {
      for (Index col = 0; col < cols; col += shape.cols) {
        block<L>(memory, first_row + row, smaller(shape.rows, rows - row), first_col + col,
                 smaller(shape.cols, cols - col), shape.inner);
      }
    }
  }

  /// The same from code that is compiled once for all levels.
  MOXIE_INLINE void run(AnyLevel any, BlockMemory<T>& memory) const;

 private:
  template <class L>
  MOXIE_INLINE void block(BlockMemory<T>& memory, Index row, Index m, Index col, Index n,
                          Index stretch) const {
    constexpr Index width = lanes<T, L>;
    const Index padded = divide_up(n, width) * width;
    Index done = 0;
    do {  // once, even if there is nothing to add
      const Index count = smaller(stretch, inner - done);
      const Index p = first_inner + done;
      const bool pack_b = b.op == Op::transpose || b.index != nullptr || b.scale != nullptr ||
                          padded != n || far_apart(b, count, m);
      if (pack_b && b.op == Op::none) pack_rows<T, L>(b, p, count, col, n, padded, memory.b);
      if (pack_b && b.op == Op::transpose) {
        pack_transposed<T, L>(b, p, count, col, n, padded, memory.b);
      }
      const bool pack_a = a.op == Op::transpose &&
                          (a.index != nullptr || a.scale != nullptr || far_apart(a, count, n));
      if (pack_a) pack_rows<T, L>(a, p, count, row, m, m, memory.a);
      Panel<T, L> panel;
      panel.a = a;
      panel.packed_a = pack_a ? memory.a : nullptr;
      panel.b = pack_b ? memory.b : b.data + p * b.stride + col;
      panel.b_step = pack_b ? padded : b.stride;
      panel.c = {c + row * c_stride + col, m, n, c_stride};
      panel.sums = memory.sums;
      panel.sum_step = padded;
      panel.row = row;
      panel.inner = p;
      panel.count = count;
      panel.alpha = alpha;
      panel.beta = beta;
      panel.first = done == 0;
      panel.last = done + count >= inner;
      for (Index j = 0; j < n;) j += width * panel.next(j, (padded - j) / width);
      done += count;
    } while (done < inner);
  }

  /// Whether rows of the slab lie so far apart that they would fight for the same lines of the cache, and
  /// `reuse` is large enough to pay for a packed copy.
  static MOXIE_INLINE bool far_apart(const Factor<T>& f, Index count, Index reuse) {
    return reuse > 16 && count * f.stride * static_cast<Index>(sizeof(T)) > 65536;
  }
};

/// A BlockProduct at a level: the one thing that is compiled for each level, however many kinds of tasks there are.
template <class T>
struct RunBlockProduct {
  const BlockProduct<T>& product;
  BlockMemory<T>& memory;

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    product.run(level, memory);
  }
};

template <class T>
MOXIE_INLINE void BlockProduct<T>::run(AnyLevel any, BlockMemory<T>& memory) const {
  at_level(any.level, RunBlockProduct<T>{*this, memory});
}

}  // namespace moxie::detail
