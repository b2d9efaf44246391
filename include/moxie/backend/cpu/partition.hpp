#pragma once

#include "moxie/core/view.hpp"

/// How work is divided. Nothing here is part of a result.
namespace moxie::detail {

constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }
constexpr Index larger(Index a, Index b) { return a < b ? b : a; }
constexpr Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

/// Multiply-adds that pay for handing a task out: some microseconds.
inline constexpr Index worth_a_task = 200000;

/// Indices of a task: at least `grain`, and few enough that a worker gets up to eight tasks.
constexpr Index task_size(Index n, int workers, Index grain) {
  const Index least = larger(grain, 1);
  return workers == 1 ? larger(n, 1) : larger(least, divide_up(n, 8 * static_cast<Index>(workers)));
}

/// Block of a product that one worker computes with its panels in cache and its sums at hand.
struct BlockShape {
  Index inner, rows, cols;
};

/// Where the left factor is transposed both factors stream past the sums, so the block is wide; where it is
/// not, only the right one is packed, and pays for it by the rows. The two are of one size in bytes.
template <class T>
constexpr BlockShape block_shape(Op op_a, Index inner) {
  constexpr Index size = sizeof(T);
  if (op_a == Op::transpose || inner <= 512 / size) return {512 / size, 144, 768 / size};
  return {768 / size, 216, 512 / size};
}

/// How a rows x cols result is cut into tasks.
struct Cut {
  Index rows, cols;          // of the result
  Index row_step, col_step;  // of a task
  Index row_tasks, col_tasks;

  Index tasks() const { return row_tasks * col_tasks; }
};

/// Cuts a result into blocks, smaller ones where workers would get too few, but none that does not pay for
/// being handed out. `times`: how many such results there are.
template <class T>
Cut cut_product(Index rows, Index cols, Index inner, Op op_a, int workers, Index times = 1) {
  if (rows < 1 || cols < 1) return {rows, cols, 1, 1, 0, 0};
  constexpr Index vector = 64 / static_cast<Index>(sizeof(T));  // of the widest level
  constexpr Index least_rows = 24;
  constexpr Index least_cols = 2 * vector;
  const BlockShape block = block_shape<T>(op_a, inner);
  const Index worth = rows * cols * larger(inner, 1) / worth_a_task;
  const Index wanted = workers > 1 ? smaller(divide_up(4 * workers, larger(times, 1)), worth) : 1;
  Index row_tasks = divide_up(rows, block.rows);
  Index col_tasks = divide_up(cols, block.cols);
  for (;;) {
    const Index row_step = divide_up(divide_up(rows, row_tasks), 8) * 8;
    const Index col_step = divide_up(divide_up(cols, col_tasks), vector) * vector;
    const Cut cut{
        rows, cols, row_step, col_step, divide_up(rows, row_step), divide_up(cols, col_step)};
    const bool by_rows = row_step >= 2 * least_rows;
    const bool by_cols = col_step >= 2 * least_cols;
    if (worth <= 1) return {rows, cols, rows, cols, 1, 1};
    if (cut.tasks() >= wanted || (!by_rows && !by_cols)) return cut;
    // Square blocks read least.
    if (by_rows && (row_step >= col_step || !by_cols)) {
      ++row_tasks;
    } else {
      ++col_tasks;
    }
  }
}

}  // namespace moxie::detail
