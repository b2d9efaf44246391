#pragma once

#include "moxie/backend/cpu/block_product.hpp"
#include "moxie/backend/cpu/partition.hpp"
#include "moxie/core/rows.hpp"

/// Products as tasks. A task owns whole blocks of the result, so no result depends on who runs it.
namespace moxie::detail {

/// One task of c = alpha op(a) op(b) + beta c.
template <class T>
struct GemmTask {
  const BlockProduct<T>& whole;
  const Cut& cut;
  Index task;

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    BlockMemory<T> memory;
    BlockProduct<T> part = whole;
    part.first_row = task / cut.col_tasks * cut.row_step;
    part.first_col = task % cut.col_tasks * cut.col_step;
    part.rows = smaller(cut.row_step, cut.rows - part.first_row);
    part.cols = smaller(cut.col_step, cut.cols - part.first_col);
    part.run(level, memory);
  }
};

/// A run of (image, head) products, each whole.
template <class T>
struct BatchedTask {
  BatchView<const T> a, b;
  BatchView<T> c;
  Op op_a, op_b;
  T alpha, beta;
  Index first, last;

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    BlockMemory<T> memory;
    const Index inner = op_a == Op::none ? a.first.cols : a.first.rows;
    for (Index i = first; i < last; ++i) {
      const Index image = i / c.heads;
      const Index head = i % c.heads;
      const MatrixView<const T> left = a(image, head);
      const MatrixView<const T> right = b(image, head);
      const MatrixView<T> out = c(image, head);
      const BlockProduct<T> product{{left.data, left.stride, op_a, nullptr, nullptr},
                                    {right.data, right.stride, op_b, nullptr, nullptr},
                                    out.data,
                                    out.stride,
                                    0,
                                    out.rows,
                                    0,
                                    out.cols,
                                    0,
                                    inner,
                                    alpha,
                                    beta};
      product.run(level, memory);
    }
  }
};

/// Rows of several experts: a run of all rows, cut where experts meet, by a block of columns.
template <class T>
struct GroupedTask {
  Factor<T> x;
  MatrixView<const T> w;
  Op op;
  MatrixView<T> out;
  const std::int32_t* offset;
  Index experts, inner;
  const Cut& cut;
  Index task;

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    BlockMemory<T> memory;
    const Index first = offset[0] + task / cut.col_tasks * cut.row_step;
    const Index last = smaller(first + cut.row_step, offset[experts]);
    const Index col = task % cut.col_tasks * cut.col_step;
    const Index cols = smaller(cut.col_step, cut.cols - col);
    Index e = expert_of_row(offset, experts, first);
    for (Index row = first; row < last; ++e) {
      const Index end = smaller(last, offset[e + 1]);
      if (end <= row) continue;
      const T* weights = w.data + e * (op == Op::none ? inner : out.cols) * w.stride;
      const BlockProduct<T> product{x,        {weights, w.stride, op, nullptr, nullptr},
                                    out.data, out.stride,
                                    row,      end - row,
                                    col,      cols,
                                    0,        inner,
                                    T(1),     T(0)};
      product.run(level, memory);
      row = end;
    }
  }
};

/// A block of one expert's weight gradient, over all its rows.
template <class T>
struct GroupedWeightsTask {
  Factor<T> x, dy;
  MatrixView<T> dw;
  const std::int32_t* offset;
  const Cut& cut;  // of one expert
  Index task;

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    const Index e = task / cut.tasks();
    const Index block = task % cut.tasks();
    if (offset[e] == offset[e + 1]) return;
    BlockMemory<T> memory;
    BlockProduct<T> product{x, dy,        dw.data + e * cut.rows * dw.stride, dw.stride, 0,   0, 0,
                            0, offset[e], offset[e + 1] - offset[e],          T(1),      T(1)};
    product.first_row = block / cut.col_tasks * cut.row_step;
    product.first_col = block % cut.col_tasks * cut.col_step;
    product.rows = smaller(cut.row_step, cut.rows - product.first_row);
    product.cols = smaller(cut.col_step, cut.cols - product.first_col);
    product.run(level, memory);
  }
};

}  // namespace moxie::detail
