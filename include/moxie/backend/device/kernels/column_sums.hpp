#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

/// Sums over rows in a fixed order, one after the other, with the terms made by all threads of a
/// block: what costs time is fetching them.
namespace moxie::detail::device {

inline constexpr int column_sum_threads = 256;
inline constexpr int column_sum_terms = 4096;  // that lie in shared memory at a time
inline constexpr int column_sum_width = 32;    // columns of a block, at most

/// Rows in groups of `group`, each cut into `chunks` of `chunk` rows: chunk i lies in group i / chunks.
struct RowChunks {
  Index group, chunk, chunks;

  MOXIE_HD Index first(Index i) const { return i / chunks * group + i % chunks * chunk; }
  MOXIE_HD Index last(Index i) const {
    const Index left = group - i % chunks * chunk;
    return first(i) + (left < chunk ? left : chunk);
  }
};

/// The columns of a block of sums: block i * tiles + t has chunk i and the t-th 2^log_width columns.
struct SumTile {
  Index chunk, column;
  int log_width, columns;  // 2^log_width, and how many of them there are

  MOXIE_HD SumTile(Index block, Index tiles, Index cols, int log_columns)
      : chunk(block / tiles), column((block % tiles) << log_columns), log_width(log_columns) {
    const int width = 1 << log_width;
    columns = cols - column < width ? static_cast<int>(cols - column) : width;
  }
};

/// The sum of the thread's column of the tile over rows [first, last), `stage` of them at a time: `begin(r, count)`
/// before the count rows from r on, then `term(r, i, c)` of row r + i and column c of the tile.
template <class T, class Begin, class Term>
MOXIE_DEVICE T sum_stages(const SumTile& tile, Index first, Index last, int stage,
                          const Begin& begin, const Term& term) {
  MOXIE_SHARED(T[column_sum_terms], terms);
  constexpr int batch = 4;  // terms a thread fetches before it stores the first
  const int log_width = tile.log_width;
  const int columns = tile.columns;
  const int thread = static_cast<int>(threadIdx.x);
  T sum = 0;
  for (; first < last; first += stage) {
    const int count = last - first < stage ? static_cast<int>(last - first) : stage;
    const int end = count << log_width;
    begin(first, count);
    for (int from = thread; from < end; from += batch * column_sum_threads) {
      T fetched[static_cast<std::size_t>(batch)];
      MOXIE_UNROLL
      for (int i = 0; i < batch; ++i) {
        const int at = from + i * column_sum_threads;
        const int c = at & ((1 << log_width) - 1);
        fetched[i] = at < end && c < columns ? term(first, at >> log_width, c) : T(0);
      }
      MOXIE_UNROLL
      for (int i = 0; i < batch; ++i) {
        const int at = from + i * column_sum_threads;
        if (at < end) terms[at] = fetched[i];
      }
    }
    __syncthreads();
    if (thread < columns)
      for (int r = 0; r < count; ++r) sum += terms[(r << log_width) + thread];
    __syncthreads();
  }
  return sum;
}

/// out[i, c] = the sum of f(r, c) over the rows of chunk i, or += with `accumulate`; out [chunks of all groups, cols].
template <class T, class F>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(column_sum_threads)
    sum_rows(F f, RowChunks rows, Index cols, Index tiles, int log_width, T* out, bool accumulate) {
  const SumTile tile(Index{blockIdx.x}, tiles, cols, log_width);
  const T sum = sum_stages<T>(
      tile, rows.first(tile.chunk), rows.last(tile.chunk), column_sum_terms >> log_width,
      [](Index, int) {}, [&](Index r, int i, int c) { return f(r + i, tile.column + c); });
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < tile.columns) {
    T& to = out[tile.chunk * cols + tile.column + thread];
    to = accumulate ? to + sum : sum;
  }
}

/// Blocks of sum_made_rows on a multiprocessor, at most. Left to itself, nvcc spills registers of a dear term to fit in more.
template <class T>
inline constexpr int made_row_blocks = sizeof(T) == sizeof(float) ? 4 : 2;

/// sum_rows of f.of(r)(c), 0 for a row that does not count. A thread makes a row, all threads of the block its terms.
template <class T, class F>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(column_sum_threads, made_row_blocks<T>)
    sum_made_rows(F f, RowChunks rows, Index cols, Index tiles, int log_width, T* out) {
  using Row = decltype(f.of(Index{}));
  static_assert(sizeof(Row) <= 64, "rows and terms must fit into 48 KiB");
  MOXIE_SHARED(Row[column_sum_threads], made);
  const SumTile tile(Index{blockIdx.x}, tiles, cols, log_width);
  const int most = column_sum_terms >> log_width;
  const int thread = static_cast<int>(threadIdx.x);
  const T sum = sum_stages<T>(
      tile, rows.first(tile.chunk), rows.last(tile.chunk),
      most < column_sum_threads ? most : column_sum_threads,
      [&](Index r, int count) {
        if (thread < count) made[thread] = f.of(r + thread);
        __syncthreads();
      },
      [&](Index, int i, int c) { return made[i] ? made[i](tile.column + c) : T(0); });
  if (thread < tile.columns) out[tile.chunk * cols + tile.column + thread] = sum;
}

/// A matrix without gaps as terms.
template <class T>
struct DenseTerm {
  const T* data;
  Index cols;
  MOXIE_HD T operator()(Index r, Index c) const { return data[r * cols + c]; }
};

}  // namespace moxie::detail::device

#endif
