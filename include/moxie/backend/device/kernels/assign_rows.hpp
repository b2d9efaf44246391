#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include <cstdint>

#include "moxie/backend/device/kernels/warp.hpp"
#include "moxie/core/bits.hpp"
#include "moxie/core/view.hpp"
#include "moxie/ops/assign_rows.hpp"

/// Slots by counting instead of sorting. The assignments of a group, in the order in which they are
/// served, are cut into chunks of a block each, which a block's warps cut into runs. A warp counts
/// along its run, 32 assignments at a time; counts of runs, chunks and segments are summed up
/// afterwards, so nobody waits for another block.
namespace moxie::detail::device {

inline constexpr int rank_rounds = 8;  ///< times 32: the most assignments of a run
inline constexpr int rank_warps = 8;   ///< of a block of several
inline constexpr Index rank_chunk = Index{rank_rounds} * rank_warps * warp_size;
inline constexpr Index rank_experts = 1024;  ///< the most experts whose counts a block holds
/// The most counts of warps, and assignments, of a block that deals with all of them.
inline constexpr Index rank_alone = 8192;

/// The assignment that is served p-th of a group.
template <class B>
MOXIE_HD Index served(const AssignmentLists<B>& a, Index group, Index p) {
  const Index k = p / a.group;
  const Index j = group * a.group + p % a.group;
  return (a.order ? a.order[j] : j) * a.choice.cols + k;
}

/// Warps of a block for `count` assignments, at most `most`.
constexpr Index rank_block_warps(Index count, Index most) {
  const Index needed = blocks_of(count, warp_size);
  return needed < most ? needed : most;
}
/// The most warps of a block that deals with all assignments.
constexpr Index rank_warps_alone(Index experts) {
  const Index warps = rank_alone / experts;
  return warps < warp_size ? warps : warp_size;
}

/// What a thread knows of its assignments.
struct RankedRun {
  std::int32_t at[rank_rounds];      // assignment, -1: none
  std::int32_t expert[rank_rounds];  // -1: none
  std::int32_t slot[rank_rounds];
};

/// Ranks assignments [first, last) of a group among themselves, those of each expert apart. counts
/// [E] becomes how many each expert has; `held` [warps, E] is shared memory.
template <class B>
MOXIE_DEVICE void rank_chunk_of(const AssignmentLists<B>& a, Index group, Index first, Index last,
                                std::int32_t* held, std::int32_t* counts, RankedRun& run) {
  const int experts = static_cast<int>(a.experts);
  const int bits = bits_for(a.experts);
  const int rounds = static_cast<int>((last - first + blockDim.x - 1) / blockDim.x);
  std::int32_t* mine = held + warp_id() * experts;
  for (int e = lane_id(); e < experts; e += warp_size) mine[e] = 0;
  __syncwarp(whole_warp);
  MOXIE_UNROLL
  for (int i = 0; i < rank_rounds; ++i) {
    run.at[i] = -1;
    run.expert[i] = -1;
    run.slot[i] = -1;
    if (i >= rounds) continue;
    const Index p = first + (Index{warp_id()} * rounds + i) * warp_size + lane_id();
    int e = -1;
    if (p < last) {
      const Index at = served(a, group, p);
      run.at[i] = static_cast<std::int32_t>(at);
      e = a.choice.data[at];
    }
    // The lanes with the same expert.
    unsigned same = __ballot_sync(whole_warp, e >= 0);
    for (int bit = 0; bit < bits; ++bit) {
      const bool set = ((e >> bit) & 1) != 0;
      const unsigned with = __ballot_sync(whole_warp, set);
      same &= set ? with : ~with;
    }
    const int before = __popc(same & ((1U << lane_id()) - 1U));
    if (e >= 0) {
      run.expert[i] = e;
      run.slot[i] = mine[e] + before;
    }
    __syncwarp(whole_warp);
    if (e >= 0 && before == 0) mine[e] += __popc(same);
    __syncwarp(whole_warp);
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    std::int32_t sum = 0;
    for (int w = 0; w < block_warps(); ++w) {
      const std::int32_t count = held[w * experts + e];
      held[w * experts + e] = sum;
      sum += count;
    }
    counts[e] = sum;
  }
  __syncthreads();
  MOXIE_UNROLL
  for (int i = 0; i < rank_rounds; ++i)
    if (run.expert[i] >= 0) run.slot[i] += mine[run.expert[i]];
}

/// Slots among the assignments of a chunk, and the chunk's counts: of chunk c of group g at (g *
/// chunks + c) * E, or, if there is one for each group, what is kept of them in `base`.
template <class B>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(rank_warps* warp_size)
    rank_assignments(AssignmentLists<B> a, Index chunks) {
  MOXIE_DYNAMIC_SHARED(std::int32_t, shared);
  const Index group = Index{blockIdx.x} / chunks;
  const Index first = Index{blockIdx.x} % chunks * rank_chunk;
  const Index end = a.group * a.choice.cols;
  std::int32_t* counts = shared;  // [E]
  RankedRun run;
  rank_chunk_of(a, group, first, first + rank_chunk < end ? first + rank_chunk : end,
                shared + a.experts, counts, run);
  MOXIE_UNROLL
  for (int i = 0; i < rank_rounds; ++i)
    if (run.at[i] >= 0) a.slot.data[run.at[i]] = run.slot[i];
  if (blockIdx.x == 0 && threadIdx.x == 0) a.base[a.segments()] = 0;
  for (Index e = threadIdx.x; e < a.experts; e += blockDim.x) {
    if (chunks > 1) {
      a.key[Index{blockIdx.x} * a.experts + e] = counts[e];
    } else {
      a.base[e * a.groups() + group] =
          counts[e] < a.capacity ? counts[e] : static_cast<std::int32_t>(a.capacity);
    }
  }
}

/// The counts of a segment's chunks become what was counted before each, and `base` what is kept of
/// all.
template <class B>
struct SumChunks {
  AssignmentLists<B> a;
  Index chunks;

  MOXIE_HD void operator()(Index segment) const {
    const Index groups = a.groups();
    const Index e = segment / groups;
    std::int32_t sum = 0;
    for (Index c = 0; c < chunks; ++c) {
      std::int32_t& count = a.key[(segment % groups * chunks + c) * a.experts + e];
      const std::int32_t own = count;
      count = sum;
      sum += own;
    }
    a.base[segment] = sum < a.capacity ? sum : static_cast<std::int32_t>(a.capacity);
  }
};

/// Makes the slot of the i-th assignment that of its segment, and gives it its row.
template <class B>
struct PlaceRanked {
  AssignmentLists<B> a;
  Index chunks;

  MOXIE_HD void operator()(Index i) const {
    const Index in_group = a.group * a.choice.cols;
    const Index group = i / in_group;
    const Index p = i % in_group;
    const Index at = served(a, group, p);
    const Index e = a.choice.data[at];
    Index row = -1;
    if (e >= 0) {
      Index slot = a.slot.data[at];
      if (chunks > 1) {
        slot += a.key[(group * chunks + p / rank_chunk) * a.experts + e];
        a.slot.data[at] = static_cast<std::int32_t>(slot);
      }
      if (slot < a.capacity) {
        row = a.base[e * a.groups() + group] + slot;
        a.token[row] = static_cast<std::int32_t>(at / a.choice.cols);
        a.assignment[row] = static_cast<std::int32_t>(at);
      }
    }
    a.row.data[at] = static_cast<std::int32_t>(row);
  }
};

/// All of assign_rows for one group whose assignments fit into one block.
template <class B>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(1024) assign_rows_alone(AssignmentLists<B> a) {
  MOXIE_DYNAMIC_SHARED(std::int32_t, shared);
  std::int32_t* counts = shared;                // [E], then [E + 1] first row of each expert
  std::int32_t* held = shared + a.experts + 1;  // [warps, E]
  RankedRun run;
  rank_chunk_of(a, 0, 0, a.choice.size(), held, counts, run);
  if (warp_id() == 0) {  // sums up what is kept, 32 experts at a time
    std::int32_t sum = 0;
    for (Index first = 0; first <= a.experts; first += warp_size) {
      const Index e = first + lane_id();
      std::int32_t kept = e < a.experts ? counts[e] : 0;
      if (kept > a.capacity) kept = static_cast<std::int32_t>(a.capacity);
      std::int32_t through = kept;  // of the lanes up to this one
      for (int step = 1; step < warp_size; step *= 2) {
        const std::int32_t below = __shfl_up_sync(whole_warp, through, static_cast<unsigned>(step));
        if (lane_id() >= step) through += below;
      }
      if (e <= a.experts) {
        counts[e] = sum + through - kept;
        a.offset[e] = counts[e];
      }
      sum += __shfl_sync(whole_warp, through, warp_size - 1);
    }
  }
  __syncthreads();
  MOXIE_UNROLL
  for (int i = 0; i < rank_rounds; ++i) {
    const std::int32_t at = run.at[i];
    if (at < 0) continue;
    const std::int32_t slot = run.slot[i];
    std::int32_t row = -1;
    if (slot >= 0 && slot < a.capacity) {
      row = counts[run.expert[i]] + slot;
      a.token[row] = static_cast<std::int32_t>(at / a.choice.cols);
      a.assignment[row] = at;
    }
    a.slot.data[at] = slot;
    a.row.data[at] = row;
  }
}

}  // namespace moxie::detail::device

#endif
