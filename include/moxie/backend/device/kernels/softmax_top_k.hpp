#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include "moxie/backend/device/kernels/warp.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/view.hpp"
#include "moxie/ops/top_k.hpp"

/// A warp for each row of scores. Lane l holds columns 32 i + l in registers, `N` of them at most.
namespace moxie::detail::device {

/// The most columns of a row that a warp holds.
inline constexpr Index warp_columns = 1024;
inline constexpr int rank_threads = 128;

template <int N, class T>
MOXIE_DEVICE void load_row(const T* from, int columns, T rest, Registers<T, N>& value) {
  MOXIE_UNROLL
  for (int i = 0; i < N; ++i) {
    const int e = i * warp_size + lane_id();
    value[i] = e < columns ? from[e] : rest;
  }
}

/// TopKRow: the next in rank is the largest of those behind the last, of equal ones the lowest.
template <int N, class T>
MOXIE_DEVICE void warp_top_k(const Registers<T, N>& score, const T* row, int columns, Index k,
                             std::int32_t* best) {
  constexpr T least = -static_cast<T>(__builtin_huge_val());
  constexpr int none = static_cast<int>(warp_columns);
  T bound = -least;
  int last = -1;
  for (Index j = 0; j < k; ++j) {
    T top = least;
    int column = none;
    MOXIE_UNROLL
    for (int i = 0; i < N; ++i) {
      const int e = i * warp_size + lane_id();
      const bool behind = (score[i] < bound) | ((score[i] == bound) & (e > last));
      if (behind && score[i] > top) {
        top = score[i];
        column = e;
      }
    }
    for (int step = warp_size / 2; step > 0; step /= 2) {
      const T other = __shfl_xor_sync(whole_warp, top, step);
      const int at = __shfl_xor_sync(whole_warp, column, step);
      if (other > top || (other == top && at < column)) {
        top = other;
        column = at;
      }
    }
    if (column == none) {  // only minus infinity and NaN are left
      if (lane_id() == 0) insert_top_k(row, Index{columns}, k, best);
      return;
    }
    if (lane_id() == 0) best[j] = column;
    bound = top;
    last = column;
  }
}

/// out = softmax_rows(in) if there is an `out`, and choice = top_k_rows(in, mask) if there is a
/// `choice`. in: [R, E], E <= 32 N; `out` may be `in`.
template <class B, int N>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(rank_threads)
    softmax_top_k(ConstMatrix<B> in, ConstIntVector<B> mask, Matrix<B> out, IntMatrix<B> choice) {
  using T = typename B::Scalar;
  const Index r = grid_warp_id();
  if (r >= in.rows) return;
  const int columns = static_cast<int>(in.cols);
  Registers<T, N> value;
  load_row<N>(in.row(r), columns, -static_cast<T>(__builtin_huge_val()), value);
  if (choice) {
    std::int32_t* best = choice.row(r);
    if (mask && mask[r] == 0) {
      for (Index j = lane_id(); j < choice.cols; j += warp_size) best[j] = -1;
    } else {
      warp_top_k<N>(value, in.row(r), columns, choice.cols, best);
    }
  }
  if (!out) return;
  T peak = math::lowest<T>();
  MOXIE_UNROLL
  for (int i = 0; i < N; ++i) peak = math::maximum(peak, value[i]);
  peak = warp_maximum(peak);
  MOXIE_UNROLL
  for (int i = 0; i < N; ++i)
    value[i] = i * warp_size + lane_id() < columns ? math::exp(value[i] - peak) : T(0);
  const T scale = T(1) / warp_strip_sum<N>(value);
  T* to = out.row(r);
  MOXIE_UNROLL
  for (int i = 0; i < N; ++i) {
    const int e = i * warp_size + lane_id();
    if (e < columns) to[e] = value[i] * scale;
  }
}

}  // namespace moxie::detail::device

#endif
