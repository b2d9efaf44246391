#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include "moxie/backend/device/kernels/packs.hpp"
#include "moxie/backend/device/kernels/warp.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"
#include "moxie/ops/padded_rows.hpp"
#include "moxie/ops/routed_rows.hpp"

/// Rows of experts to tokens and back. Sums have a fixed order, so a result has the same bits in
/// every run, and does not depend on how rows are aligned.
namespace moxie::detail::device {

inline constexpr int row_block = 256;  // threads

/// A thread's part of rows that teams of threads of a block have, whole warps, one each.
struct TeamPart {
  Index row, first_col, col_step;
};

/// The part of the calling thread, in packs of `Width` columns.
template <int Width>
MOXIE_DEVICE TeamPart team_part(int team) {
  const int thread = static_cast<int>(threadIdx.x);
  const Index teams = static_cast<int>(blockDim.x) / team;
  return {Index{blockIdx.x} * teams + thread / team, Index{thread % team} * Width,
          Index{team} * Width};
}

/// factor * the pack at `from`.
template <int Width, class T>
MOXIE_DEVICE Pack<T, Width> load_scaled_pack(T factor, const T* from) {
  Pack<T, Width> pack = load_pack<Width>(from);
  MOXIE_UNROLL
  for (int i = 0; i < Width; ++i) pack.value[i] = factor * pack.value[i];
  return pack;
}

/// combine_rows: a team has a token.
template <class B, int Width>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(row_block, 4)
    combine_token_rows(RowLists<B> lists, ConstMatrix<B> rows, Matrix<B> y, int team) {
  using T = typename B::Scalar;
  const TeamPart part = team_part<Width>(team);
  const Index t = part.row;
  if (t >= y.rows) return;
  const Index first = lists.begin(t);
  const Index last = lists.end(t);
  for (Index c = part.first_col; c < y.cols; c += part.col_step) {
    Pack<T, Width> sum{};
    bool empty = true;
    for (Index a = first; a < last; ++a) {
      const Index row = lists.row[a];
      if (row < 0) continue;
      const T w = lists.weight != nullptr ? lists.weight[a] : T(1);
      const Pack<T, Width> from = load_pack<Width>(rows.row(row) + c);
      MOXIE_UNROLL
      for (int i = 0; i < Width; ++i)
        sum.value[i] = empty ? w * from.value[i] : sum.value[i] + w * from.value[i];
      empty = false;
    }
    store_pack(y.row(t) + c, sum);
  }
}

/// combine_rows_backward: a warp has a token and takes 16 bytes of a row a lane; `Packed` says that
/// they are aligned.
template <class B, bool Packed>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(row_block, 3)
    combine_token_weights(RowLists<B> lists, ConstMatrix<B> rows, ConstMatrix<B> dy,
                          typename B::Scalar* d_weight) {
  using T = typename B::Scalar;
  constexpr int width = pack_width<T>;
  const Index t = grid_warp_id();
  if (t >= dy.rows) return;
  const T* d = dy.row(t);
  const Index last = lists.end(t);
  for (Index a = lists.begin(t); a < last; ++a) {
    const Index row = lists.row[a];
    if (row < 0) {
      if (lane_id() == 0) d_weight[a] = 0;
      continue;
    }
    const T* from = rows.row(row);
    Registers<T, width> part = {};
    for (Index c = Index{lane_id()} * width; c < dy.cols; c += Index{warp_size} * width) {
      if constexpr (Packed) {
        const Pack<T, width> x = load_pack<width>(d + c);
        const Pack<T, width> y = load_pack<width>(from + c);
        MOXIE_UNROLL
        for (int i = 0; i < width; ++i) part[i] += x.value[i] * y.value[i];
      } else {
        MOXIE_UNROLL
        for (int i = 0; i < width; ++i)
          if (c + i < dy.cols) part[i] += d[c + i] * from[c + i];
      }
    }
    MOXIE_UNROLL
    for (int half = width / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) part[i] += part[i + half];
    const T sum = warp_sum(part[0]);
    if (lane_id() == 0) d_weight[a] = sum;
  }
}

/// gather_rows: a team has a row.
template <class B, int Width>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(row_block, 4)
    gather_expert_rows(Rows<B> rows, Matrix<B> out, int team) {
  using T = typename B::Scalar;
  const TeamPart part = team_part<Width>(team);
  const Index r = part.row;
  if (r < rows.offset[0] || r >= rows.offset[rows.experts()]) return;
  const T* from = rows.x.row(rows.source(r));
  const T factor = rows.factor(r);
  for (Index c = part.first_col; c < out.cols; c += part.col_step)
    store_pack(out.row(r) + c, load_scaled_pack<Width>(factor, from + c));
}

/// copy_padded_rows: a team has a row.
template <class B, int Width>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(row_block, 4)
    copy_padded_expert_rows(PaddedRows<B> rows, ConstMatrix<B> from, Matrix<B> to, int team) {
  using T = typename B::Scalar;
  const TeamPart part = team_part<Width>(team);
  const Index q = part.row;
  if (q >= to.rows) return;
  const Index r = rows.of(q);
  const T* source = r < 0 ? nullptr : from.row(rows.token[r]);
  const T factor = r < 0 ? T(0) : rows.factor(r);
  for (Index c = part.first_col; c < to.cols; c += part.col_step) {
    Pack<T, Width> pack{};
    if (source != nullptr) pack = load_scaled_pack<Width>(factor, source + c);
    store_pack(to.row(q) + c, pack);
  }
}

}  // namespace moxie::detail::device

#endif
