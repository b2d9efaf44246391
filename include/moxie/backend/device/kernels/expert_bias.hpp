#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include <cstddef>

#include "moxie/backend/device/kernels/packs.hpp"
#include "moxie/backend/device/kernels/warp.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail::device {

inline constexpr int bias_warps = 16;  // of a block: an expert that has most rows has few blocks
inline constexpr int bias_threads = bias_warps * warp_size;

/// d_bias[e, :] += sum over the rows r of expert e of dy(r, :). Block e * tiles + t has expert e and
/// the t-th columns of a warp whose lanes have `Width` each. Warp w adds the rows first + w + 16 i in
/// ascending order, and then a thread adds the warps' parts of its column, also ascending: the order
/// depends on nothing but how many rows there are.
template <class B, int Width>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(bias_threads, 2)
    sum_expert_rows(Rows<B> dy, Matrix<B> d_bias, Index tiles) {
  using T = typename B::Scalar;
  constexpr int columns = warp_size * Width;
  // rows a warp fetches before it adds the first: what hides the memory's latency
  constexpr int batch = sizeof(Pack<T, Width>) == 4 ? 8 : 4;
  MOXIE_SHARED(T[static_cast<std::size_t>(bias_warps)][static_cast<std::size_t>(columns)], parts);
  const Index e = Index{blockIdx.x} / tiles;
  const Index column = Index{blockIdx.x} % tiles * columns;
  const Index last = dy.offset[e + 1];
  const Index first = dy.offset[e];
  if (first >= last) return;
  const Index own = column + lane_id() * Width;
  Pack<T, Width> sum{};
  if (own < d_bias.cols) {
    for (Index r = first + warp_id(); r < last; r += batch * bias_warps) {
      // Past the end the last row is fetched again: a branch would wait for each row by itself.
      Registers<Index, batch> source;
      Registers<T, batch> factor;
      MOXIE_UNROLL
      for (int i = 0; i < batch; ++i) {
        const Index at = r + i * bias_warps;
        source[i] = dy.source(at < last ? at : last - 1);
        factor[i] = dy.factor(at < last ? at : last - 1);
      }
      Registers<Pack<T, Width>, batch> row;
      MOXIE_UNROLL
      for (int i = 0; i < batch; ++i) row[i] = load_pack<Width>(dy.x.row(source[i]) + own);
      MOXIE_UNROLL
      for (int i = 0; i < batch; ++i) {
        if (r + i * bias_warps < last) {
          MOXIE_UNROLL
          for (int j = 0; j < Width; ++j) sum.value[j] += factor[i] * row[i].value[j];
        }
      }
    }
  }
  MOXIE_UNROLL
  for (int j = 0; j < Width; ++j) parts[warp_id()][lane_id() * Width + j] = sum.value[j];
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= columns || column + thread >= d_bias.cols) return;
  T all = parts[0][thread];
  for (int w = 1; w < bias_warps; ++w) all += parts[w][thread];
  d_bias(e, column + thread) += all;
}

}  // namespace moxie::detail::device

#endif
