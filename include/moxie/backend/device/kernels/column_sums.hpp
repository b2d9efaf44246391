#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

/// Sums over rows in a fixed order, one after the other, with the terms made by all threads of a
/// block: what costs time is fetching them.
namespace moxie::detail::device {

inline constexpr int column_sum_threads = 256;
inline constexpr int column_sum_terms = 4096;  // that lie in shared memory at a time
inline constexpr int column_sum_width = 32;    // columns of a block, at most

/// out[i, c] = the sum of f(r, c) over the `chunk` rows from i * chunk on, or += with `accumulate`;
/// out [ceil(rows / chunk), cols]. Block i * tiles + t has chunk i and the t-th 2^log_width columns.
template <class T, class F>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(column_sum_threads)
    sum_rows(F f, Index rows, Index cols, Index chunk, Index tiles, int log_width, T* out,
             bool accumulate) {
  MOXIE_SHARED(T[column_sum_terms], terms);
  constexpr int batch = 4;  // terms a thread fetches before it stores the first
  const Index group = Index{blockIdx.x} / tiles;
  const Index column = (Index{blockIdx.x} % tiles) << log_width;
  const int width = 1 << log_width;
  const int columns = cols - column < width ? static_cast<int>(cols - column) : width;
  const int stage = column_sum_terms >> log_width;
  const int thread = static_cast<int>(threadIdx.x);
  const Index last = rows - group * chunk < chunk ? rows : (group + 1) * chunk;
  T sum = 0;
  for (Index first = group * chunk; first < last; first += stage) {
    const int count = last - first < stage ? static_cast<int>(last - first) : stage;
    const int end = count << log_width;
    for (int from = thread; from < end; from += batch * column_sum_threads) {
      T fetched[static_cast<std::size_t>(batch)];
      MOXIE_UNROLL
      for (int i = 0; i < batch; ++i) {
        const int at = from + i * column_sum_threads;
        const int c = at & (width - 1);
        fetched[i] = at < end && c < columns ? f(first + (at >> log_width), column + c) : T(0);
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
  if (thread < columns) {
    T& to = out[group * cols + column + thread];
    to = accumulate ? to + sum : sum;
  }
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
