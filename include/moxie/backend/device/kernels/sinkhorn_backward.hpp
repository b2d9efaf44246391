#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include <cstddef>

#include "moxie/backend/device/kernels/warp.hpp"
#include "moxie/core/view.hpp"
#include "moxie/ops/sinkhorn_backward.hpp"

namespace moxie::detail::device {

inline constexpr int sinkhorn_solve_threads = 256;
inline constexpr std::size_t sinkhorn_solve_most_bytes = 96 * 1024;  ///< of shared memory

template <class T>
constexpr std::size_t sinkhorn_solve_bytes(Index experts) {
  return static_cast<std::size_t>(experts * (experts + 2)) * sizeof(T);
}

/// SinkhornLinks and SinkhornEliminate, a group a block: links [E, E], right sides and the solution
/// in shared memory. shift: [G, E].
template <class B>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(sinkhorn_solve_threads, 2)
    sinkhorn_solve(ConstMatrix<B> plan, ConstMatrix<B> d_plan, Index group, Matrix<B> shift) {
  using T = typename B::Scalar;
  MOXIE_DYNAMIC_SHARED(T, link);
  const int experts = static_cast<int>(plan.cols);
  const int tokens = static_cast<int>(group);
  T* const right = link + experts * experts;
  T* const solution = right + experts;
  const ConstMatrix<B> p = plan.middle(Index{blockIdx.x} * group, group);
  const ConstMatrix<B> d = d_plan.middle(Index{blockIdx.x} * group, group);

  for (int e = warp_id(); e < experts; e += block_warps()) {
    T sum = 0;
    for (int t = 0; t < tokens; ++t) {
      const T own = p(t, e);
      if (own == 0) continue;
      const T d_own = d(t, e);
      T part = 0;
      for (int j = lane_id(); j < experts; j += warp_size) part += p(t, j) * (d_own - d(t, j));
      sum += own * part;
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) right[e] = sum;
    for (int j = lane_id(); j < experts; j += warp_size) {
      T shared = 0;
      for (int t = 0; t < tokens; ++t) {
        const T own = p(t, e);
        if (own != 0) shared += own * p(t, j);
      }
      link[e * experts + j] = shared;
    }
  }
  __syncthreads();

  for (int k = experts - 1; k > 0; --k) {
    const T* const from = link + k * experts;
    T all = 0;
    for (int j = lane_id(); j < k; j += warp_size) all += from[j];
    all = warp_sum(all);                                // the same in every warp
    if (threadIdx.x == 0) link[k * experts + k] = all;  // the diagonal is not used otherwise
    if (all > sinkhorn_lost<T>) {
      for (int i = warp_id(); i < k; i += block_warps()) {
        T* const to = link + i * experts;
        const T share = to[k] / all;
        for (int j = lane_id(); j < k; j += warp_size) to[j] += share * from[j];
        if (lane_id() == 0) right[i] += share * right[k];
      }
    }
    __syncthreads();
  }

  if (warp_id() > 0) return;
  if (lane_id() == 0) solution[0] = 0;  // free up to one number for each part of the graph
  __syncwarp(whole_warp);
  for (int k = 1; k < experts; ++k) {
    const T* const from = link + k * experts;
    T sum = 0;
    for (int j = lane_id(); j < k; j += warp_size) sum += from[j] * solution[j];
    sum = warp_sum(sum);
    if (lane_id() == 0)
      solution[k] = from[k] > sinkhorn_lost<T> ? (right[k] + sum) / from[k] : T(0);
    __syncwarp(whole_warp);
  }
  for (int e = lane_id(); e < experts; e += warp_size) shift(Index{blockIdx.x}, e) = solution[e];
}

}  // namespace moxie::detail::device

#endif
