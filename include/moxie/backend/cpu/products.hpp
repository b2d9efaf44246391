#pragma once

#include "moxie/backend/cpu/block_product.hpp"
#include "moxie/backend/cpu/partition.hpp"
#include "moxie/core/rows.hpp"

/// Products as tasks. A task owns whole blocks of the result, so no result depends on who runs it.
namespace moxie::detail {

/// How a rows x cols result is cut into tasks.
struct Cut {
  Index rows, cols;          // of the result
  Index row_step, col_step;  // of a task
  Index row_tasks, col_tasks;

  Index tasks() const { return row_tasks * col_tasks; }
};

/// Cuts a result so that every worker gets a few tasks, but none smaller than pays for handing it out.
/// `times`: how many such results there are. A column step is a multiple of every level's vector.
template <class T>
Cut cut_product(Index rows, Index cols, Index inner, int workers, Index times = 1) {
  if (rows < 1 || cols < 1) return {rows, cols, 1, 1, 0, 0};
  constexpr Index granule = 64 / static_cast<Index>(sizeof(T));
  constexpr Index block_cols = 384 / static_cast<Index>(sizeof(T));
  constexpr Index block_rows = 144;
  constexpr Index row_granule = 24;  // the rows of every tile divide it
  const Index work = rows * cols * (inner > 0 ? inner : 1);
  const Index wanted =
      workers > 1 ? smaller(divide_up(4 * workers, times), work / worth_a_task + 1) : 1;
  if (wanted == 1 && work <= worth_a_task) return {rows, cols, rows, cols, 1, 1};
  // Even parts, as many as blocks are needed, so that no block is a narrow rest.
  const Index even = divide_up(cols, divide_up(cols, block_cols));
  const Index col_step = divide_up(even, granule) * granule;
  const Index col_tasks = divide_up(cols, col_step);
  Index row_step = block_rows;
  while (row_step > row_granule && divide_up(rows, row_step) * col_tasks < wanted) {
    row_step -= row_granule;
  }
  return {rows, cols, row_step, col_step, divide_up(rows, row_step), col_tasks};
}

/// One task of c = alpha op(a) op(b) + beta c.
template <class T>
struct GemmTask {
  const BlockProduct<T>& whole;
  const Cut& cut;
  Index task;

  template <class L>
  MOXIE_INLINE void operator()(L level) const {
    BlockMemory<T, L> memory;
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
    BlockMemory<T, L> memory;
    const Index inner = op_a == Op::none ? a.first.cols : a.first.rows;
    for (Index i = first; i < last; ++i) {
      const Index image = i / c.heads;
      const Index head = i % c.heads;
      const MatrixView<const T> left = a(image, head);
      const MatrixView<const T> right = b(image, head);
      const MatrixView<T> out = c(image, head);
      const BlockProduct<T> product{{left.data, left.stride, op_a, nullptr, nullptr},
                                    {right.data, right.stride, op_b, nullptr, nullptr},
                                    out.data, out.stride, 0, out.rows, 0, out.cols, 0, inner,
                                    alpha, beta};
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
    BlockMemory<T, L> memory;
    const Index first = offset[0] + task / cut.col_tasks * cut.row_step;
    const Index last = smaller(first + cut.row_step, offset[experts]);
    const Index col = task % cut.col_tasks * cut.col_step;
    const Index cols = smaller(cut.col_step, cut.cols - col);
    Index e = expert_of_row(offset, experts, first);
    for (Index row = first; row < last; ++e) {
      const Index end = smaller(last, offset[e + 1]);
      if (end <= row) continue;
      const T* weights = w.data + e * (op == Op::none ? inner : out.cols) * w.stride;
      const BlockProduct<T> product{x, {weights, w.stride, op, nullptr, nullptr}, out.data,
                                    out.stride, row, end - row, col, cols, 0, inner, T(1), T(0)};
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
    BlockMemory<T, L> memory;
    BlockProduct<T> product{x, dy, dw.data + e * cut.rows * dw.stride, dw.stride, 0, 0, 0, 0,
                            offset[e], offset[e + 1] - offset[e], T(1), T(1)};
    product.first_row = block / cut.col_tasks * cut.row_step;
    product.first_col = block % cut.col_tasks * cut.col_step;
    product.rows = smaller(cut.row_step, cut.rows - product.first_row);
    product.cols = smaller(cut.col_step, cut.cols - product.first_col);
    product.run(level, memory);
  }
};

}  // namespace moxie::detail
