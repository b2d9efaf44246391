#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include <cstddef>

#include "moxie/core/math.hpp"

/// Warps of blocks whose threads lie in one dimension.
namespace moxie::detail::device {

MOXIE_DEVICE int lane_id() { return static_cast<int>(threadIdx.x) % warp_size; }
MOXIE_DEVICE int warp_id() { return static_cast<int>(threadIdx.x) / warp_size; }
MOXIE_DEVICE int block_warps() { return static_cast<int>(blockDim.x) / warp_size; }
/// This warp's number in the grid.
MOXIE_DEVICE Index grid_warp_id() { return Index{blockIdx.x} * block_warps() + warp_id(); }

/// What a thread holds of a row. Its loops are unrolled, or it would lie in memory.
template <class T, int N>
using Registers = T[static_cast<std::size_t>(N)];

/// The sum of the lanes' values, in a fixed order; every lane has it.
template <class T>
MOXIE_DEVICE T warp_sum(T value) {
  for (int step = warp_size / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(whole_warp, value, step);
  return value;
}
/// The largest of the lanes' values, none of which is NaN; every lane has it.
template <class T>
MOXIE_DEVICE T warp_maximum(T value) {
  for (int step = warp_size / 2; step > 0; step /= 2)
    value = math::maximum(value, __shfl_xor_sync(whole_warp, value, step));
  return value;
}
/// The sum over a row whose column 32 i + l is term[i] of lane l; every lane has it. Columns are
/// added in the order of `strip_sum` (core/strip.hpp): 16 partial sums, then a tree.
template <int N, class T>
MOXIE_DEVICE T warp_strip_sum(const Registers<T, N>& term) {
  constexpr int strip = warp_size / 2;
  T sum = 0;  // lanes below 16 hold the partial sums
  MOXIE_UNROLL
  for (int i = 0; i < N; ++i) {
    sum += term[i];
    sum += __shfl_xor_sync(whole_warp, term[i], strip);
  }
  for (int step = strip / 2; step > 0; step /= 2) sum += __shfl_xor_sync(whole_warp, sum, step);
  return __shfl_sync(whole_warp, sum, 0);
}

}  // namespace moxie::detail::device

#endif
