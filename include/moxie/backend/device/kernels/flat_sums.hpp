#pragma once

#include "moxie/backend/device/kernels/strip_row.hpp"
#include "moxie/ops/chunks.hpp"

#if defined(MOXIE_KERNELS)

/// The levels of the tree of SquaredNorm (ops/norm.hpp).
namespace moxie::detail::device {

/// What is summed: the squares of a vector, in double whatever the scalar.
struct Square {
  template <class T>
  MOXIE_DEVICE double operator()(T x) const {
    const auto value = static_cast<double>(x);
    return value * value;
  }
};
/// The sums of the level below.
struct Identity {
  MOXIE_DEVICE double operator()(double x) const { return x; }
};

/// sums[i] = the sum of term(x) over chunk i of x, or += with `accumulate`.
template <class Term, class T>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    sum_chunks(const T* x, Index size, Index chunks, double* sums, bool accumulate) {
  StripRow chunk(chunks, flat_chunk);
  if (chunk.row < chunks) chunk.columns = static_cast<int>(chunk_length(chunk.row, size));
  const T* const from = x + chunk.row * flat_chunk;
  constexpr int held = static_cast<int>(flat_chunk) / strip_lanes;
  const double sum = chunk.sum<held, double>([&](int, int j) { return Term()(from[j]); });
  if (chunk.row < chunks && chunk.lane == 0)
    sums[chunk.row] = accumulate ? sums[chunk.row] + sum : sum;
}

}  // namespace moxie::detail::device

#endif
