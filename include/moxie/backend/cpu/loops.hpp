#pragma once

#include "moxie/backend/concept.hpp"
#include "moxie/backend/cpu/level.hpp"
#include "moxie/backend/cpu/partition.hpp"
#include "moxie/core/executor.hpp"

namespace moxie::detail {

template <class T>
struct FillElement {
  static constexpr bool elementwise = true;
  static constexpr bool one_level = true;
  T* out;
  T value;
  MOXIE_INLINE void operator()(Index i) const { out[i] = value; }
};

/// One chunk of `column_sums`: out[c] = sum of f(r, c) over its rows.
template <class T>
struct Chunk {
  const void* f;
  Index first_row, last_row, cols;
  T* out;
};

/// The sums of a chunk, in ascending order of the rows.
template <class T, class F>
struct ChunkSums {
  const Chunk<T>& chunk;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    const F g = *static_cast<const F*>(chunk.f);
    const Index first_row = chunk.first_row, last_row = chunk.last_row, cols = chunk.cols;
    T* const out = chunk.out;
    Index c = 0;
    for (; c + loop_strip <= cols; c += loop_strip) {
      T sum[static_cast<std::size_t>(loop_strip)] = {};
      for (Index r = first_row; r < last_row; ++r) {
        MOXIE_INDEPENDENT
        for (Index k = 0; k < loop_strip; ++k) sum[k] += g(r, c + k);
      }
      for (Index k = 0; k < loop_strip; ++k) out[c + k] = sum[k];
    }
    T sum[static_cast<std::size_t>(loop_strip)] = {};
    for (Index r = first_row; r < last_row; ++r) {
      MOXIE_INDEPENDENT
      for (Index k = 0; k < cols - c; ++k) sum[k] += g(r, c + k);
    }
    for (Index k = 0; k < cols - c; ++k) out[c + k] = sum[k];
  }
};

template <class T, class F>
void sum_chunk_at(Level level, const Chunk<T>& chunk) {
  at_level(OneLevel<F> ? Level::baseline : level, ChunkSums<T, F>{chunk});
}

/// out[c] += sums[0, c] + sums[1, c] + ...
template <class T>
struct AddChunks {
  MatrixView<const T> sums;
  T* out;

  MOXIE_INLINE void operator()(Index c) const {
    T sum = 0;
    for (Index chunk = 0; chunk < sums.rows; ++chunk) sum += sums(chunk, c);
    out[c] += sum;
  }
};

/// task(i, worker) for each i < tasks, on the executor if there is one; a single task runs here.
inline void run_tasks(Executor* executor, Index tasks, TaskRef task) {
  if (executor != nullptr && tasks > 1) return executor->run(tasks, task);
  for (Index i = 0; i < tasks; ++i) task(i, 0);
}

// The rest of each loop is the same for all functors, and compiled once.

/// loop(f, ...) over [0, n), at least `grain` indices a task.
[[gnu::noinline]] inline void run_range(Executor* executor, Index n, Index grain, RangeLoop loop,
                                        const void* f) {
  // Eight tasks a worker even out what the functor costs; more would only be handed out.
  const Index step = task_size(n, executor == nullptr ? 1 : executor->workers(), grain);
  run_tasks(executor, divide_up(n, step), [&](Index task, int) {
    const Index first = task * step;
    loop(f, first, smaller(first + step, n));
  });
}

[[gnu::noinline]] inline void run_block(Executor* executor, Index rows, Index cols, BlockLoop loop,
                                        const void* f) {
  if (rows < 1 || cols < 1) return;
  constexpr Index elements = 4096;  // of a task, at least
  constexpr Index widest = 16384;   // columns of a task: one long row is work for all
  const Index col_step = cols > 2 * widest ? widest : cols;
  const Index col_tasks = divide_up(cols, col_step);
  const Index row_step =
      task_size(rows, executor == nullptr ? 1 : executor->workers(), divide_up(elements, col_step));
  run_tasks(executor, divide_up(rows, row_step) * col_tasks, [&](Index task, int) {
    const Index row = task / col_tasks * row_step;
    const Index col = task % col_tasks * col_step;
    loop(f, row, smaller(row_step, rows - row), col, smaller(col + col_step, cols));
  });
}

/// The sums of all chunks, one chunk a task.
template <class T>
[[gnu::noinline]] void run_chunks(Executor* executor, Level level, Index rows, Index cols,
                                  void (*sum)(Level, const Chunk<T>&), const void* f, T* sums) {
  run_tasks(executor, divide_up(rows, sum_chunk), [&](Index chunk, int) {
    const Index first = chunk * sum_chunk;
    sum(level, {f, first, smaller(first + sum_chunk, rows), cols, sums + chunk * cols});
  });
}

}  // namespace moxie::detail
