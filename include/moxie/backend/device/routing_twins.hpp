#pragma once

#include <concepts>

#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include "moxie/backend/device/kernels/assign_rows.hpp"
#include "moxie/backend/device/kernels/combine_rows.hpp"
#include "moxie/backend/device/kernels/largest_tokens.hpp"
#include "moxie/backend/device/kernels/sinkhorn.hpp"
#include "moxie/backend/device/kernels/sinkhorn_backward.hpp"
#include "moxie/backend/device/kernels/softmax_top_k.hpp"
#include "moxie/ops/gather_rows.hpp"
#include "moxie/ops/padded_rows.hpp"
#include "moxie/ops/softmax_top_k.hpp"

namespace moxie {

template <std::floating_point T, Leaf<T> L>
class DeviceBackend;

namespace detail::device {

/// Kernels of routing: top-k, slots and rows, permutations, Sinkhorn. See Twins. A problem that a
/// kernel's registers or shared memory do not hold keeps the generic form.
template <class T, KernelLeaf L>
class RoutingTwins {
  using Space = typename L::Space;

 public:
  void run(const TopKRows&, MatrixView<const T, Space> scores,
           VectorView<const std::int32_t, Space> mask, MatrixView<std::int32_t, Space> choice) {
    if (scores.cols > warp_columns) return TopKRows::generic(self(), scores, mask, choice);
    rank(scores, mask, MatrixView<T, Space>(), choice);
  }
  void run(const SoftmaxTopKRows&, MatrixView<const T, Space> in,
           VectorView<const std::int32_t, Space> mask, MatrixView<T, Space> out,
           MatrixView<std::int32_t, Space> choice) {
    if (in.cols > warp_columns) return SoftmaxTopKRows::generic(self(), in, mask, out, choice);
    rank(in, mask, out, choice);
  }

  template <class B>
  void run(const AssignRows&, const AssignmentLists<B>& a) {
    const Index assignments = a.choice.size();
    if (assignments == 0 || a.experts > rank_experts) return AssignRows::generic(self(), a);
    constexpr Index count_bytes = sizeof(std::int32_t);
    const Index alone = rank_block_warps(assignments, rank_warps_alone(a.experts));
    if (a.groups() == 1 && assignments <= alone * rank_rounds * warp_size) {
      launch(1, alone * warp_size, (a.experts + 1 + alone * a.experts) * count_bytes,
             assign_rows_alone<B>, a);
      return;
    }
    const Index in_group = a.group * a.choice.cols;
    const Index chunks = blocks_of(in_group, rank_chunk);
    const Index warps = rank_block_warps(in_group, rank_warps);
    launch(a.groups() * chunks, warps * warp_size, (1 + warps) * a.experts * count_bytes,
           rank_assignments<B>, a, chunks);
    if (chunks > 1) self().for_each(a.segments(), SumChunks<B>{a, chunks});
    self().exclusive_scan(ConstIntVector<B>(a.base), a.base, a.scratch);
    self().for_each(assignments, PlaceRanked<B>{a, chunks});
    self().for_each(a.experts + 1, ExpertOffset<B>{a.base, a.groups(), a.offset});
  }

  void run(const LargestTokens&, MatrixView<const T, Space> scores,
           VectorView<const std::int32_t, Space> mask, const TokenQuota& quota,
           VectorView<std::int32_t, Space> begin, VectorView<std::int32_t, Space> token,
           VectorView<std::byte, Space> scratch) {
    using B = DeviceBackend<T, L>;
    const Index most = quota.count < quota.group ? quota.count : quota.group;
    if (most < 1 || select_bytes<T>(most) > select_most_bytes)
      return LargestTokens::generic(self(), scores, mask, quota, begin, token, scratch);
    const Index groups = scores.rows / quota.group;
    launch(blocks_of(begin.size, select_threads / warp_size), select_threads, 0, count_taken<B>,
           scores, mask, quota, groups, begin);
    self().exclusive_scan(begin, begin, scratch);
    launch(begin.size - 1, select_threads, static_cast<Index>(select_bytes<T>(most)),
           take_largest<B>, scores, mask, quota, groups, begin, token);
  }

  template <class B>
  void run(const Sinkhorn&, MatrixView<const T, Space> logits,
           VectorView<const std::int32_t, Space> mask, const SinkhornOptions& options,
           const SinkhornMemory<B>& memory, MatrixView<T, Space> plan) {
    if (logits.rows == 0) return;
    const std::size_t shared = sinkhorn_shared_bytes<T>(options.group, logits.cols);
    if (options.group * logits.cols > sinkhorn_most || shared > sinkhorn_most_bytes)
      return Sinkhorn::generic(self(), logits, mask, options, memory, plan);
    launch(logits.rows / options.group, sinkhorn_threads, static_cast<Index>(shared),
           sinkhorn_groups<B>, logits, mask, options, plan);
  }

  template <class B>
  void run(const SinkhornBackward&, MatrixView<const T, Space> plan,
           MatrixView<const T, Space> d_plan, Index group, double epsilon,
           const SinkhornBackwardMemory<B>& memory, MatrixView<T, Space> d_logits) {
    if (plan.rows == 0) return;
    const std::size_t shared = sinkhorn_solve_bytes<T>(plan.cols);
    if (shared > sinkhorn_solve_most_bytes)
      return SinkhornBackward::generic(self(), plan, d_plan, group, epsilon, memory, d_logits);
    launch(plan.rows / group, sinkhorn_solve_threads, static_cast<Index>(shared), sinkhorn_solve<B>,
           plan, d_plan, group, memory.shift);
    self().for_each(plan.rows, SinkhornLogits<B>{plan, d_plan, group, static_cast<T>(epsilon),
                                                 memory, d_logits});
  }

  template <class B>
  void run(const CombineRows&, const RowLists<B>& lists, MatrixView<const T, Space> rows,
           MatrixView<T, Space> y) {
    if (packs(rows) && packs(y)) {
      by_teams(y.rows, y.cols / pack_width<T>, combine_token_rows<B, pack_width<T>>, lists, rows,
               y);
    } else {
      by_teams(y.rows, y.cols, combine_token_rows<B, 1>, lists, rows, y);
    }
  }
  template <class B>
  void run(const CombineRowsBackward&, const RowLists<B>& lists, MatrixView<const T, Space> rows,
           MatrixView<const T, Space> dy, T* d_weight) {
    const Index blocks = blocks_of(dy.rows, row_block / warp_size);
    const bool packed = packs(rows) && packs(dy);
    launch(blocks, row_block, 0,
           packed ? combine_token_weights<B, true> : combine_token_weights<B, false>, lists, rows,
           dy, d_weight);
  }
  template <class B>
  void run(const GatherRows&, const Rows<B>& rows, MatrixView<T, Space> out) {
    if (packs(rows.x) && packs(out)) {
      by_teams(rows.rows, out.cols / pack_width<T>, gather_expert_rows<B, pack_width<T>>, rows,
               out);
    } else {
      by_teams(rows.rows, out.cols, gather_expert_rows<B, 1>, rows, out);
    }
  }
  template <class B>
  void run(const CopyPaddedRows&, const PaddedRows<B>& rows, MatrixView<const T, Space> from,
           MatrixView<T, Space> to) {
    if (packs(from) && packs(to)) {
      by_teams(to.rows, to.cols / pack_width<T>, copy_padded_expert_rows<B, pack_width<T>>, rows,
               from, to);
    } else {
      by_teams(to.rows, to.cols, copy_padded_expert_rows<B, 1>, rows, from, to);
    }
  }

 private:
  DeviceBackend<T, L>& self() { return static_cast<DeviceBackend<T, L>&>(*this); }

  template <class... P, class... A>
  void launch(Index blocks, Index threads, Index shared_bytes, void (*kernel)(P...),
              const A&... arguments) {
    self().leaf().launch(Launch{.blocks = blocks,
                                .threads = static_cast<int>(threads),
                                .shared_bytes = static_cast<std::size_t>(shared_bytes)},
                         kernel, arguments...);
  }
  void rank(MatrixView<const T, Space> in, VectorView<const std::int32_t, Space> mask,
            MatrixView<T, Space> out, MatrixView<std::int32_t, Space> choice) {
    using B = DeviceBackend<T, L>;
    const auto with = [&](auto kernel) {
      launch(blocks_of(in.rows, rank_threads / warp_size), rank_threads, 0, kernel, in, mask, out,
             choice);
    };
    const Index held = blocks_of(in.cols, warp_size);
    if (held <= 1) {
      with(softmax_top_k<B, 1>);
    } else if (held <= 2) {
      with(softmax_top_k<B, 2>);
    } else if (held <= 4) {
      with(softmax_top_k<B, 4>);
    } else if (held <= 8) {
      with(softmax_top_k<B, 8>);
    } else if (held <= 16) {
      with(softmax_top_k<B, 16>);
    } else {
      with(softmax_top_k<B, 32>);
    }
  }
  /// A kernel whose blocks are cut into teams, each for one of n rows of so many accesses.
  template <class... P, class... A>
  void by_teams(Index n, Index accesses, void (*kernel)(P...), const A&... arguments) {
    int team = warp_size;
    while (team < row_block && team < accesses) team *= 2;
    launch(blocks_of(n, row_block / team), row_block, 0, kernel, arguments..., team);
  }
};

}  // namespace detail::device
}  // namespace moxie

#endif
