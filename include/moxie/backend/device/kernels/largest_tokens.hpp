#pragma once

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

#include <cstddef>
#include <cstdint>

#include "moxie/backend/device/kernels/warp.hpp"
#include "moxie/core/bits.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/view.hpp"
#include "moxie/ops/largest_tokens.hpp"

/// The tokens that an expert takes of a group, by a block: a radix select of the C-th largest pair
/// of score and token, from the highest byte down until a byte decides, and a sort of the C.
namespace moxie::detail::device {

inline constexpr int select_threads = 256;  // as many as a byte has values
inline constexpr int byte_values = 256;

/// Bits that order as the scores do; 0 stands for none. Not of NaN.
MOXIE_DEVICE std::uint32_t ordered_bits(float score) {
  const auto bits = math::detail::bits<std::uint32_t>(score + 0.0F);  // one zero, not two
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000U;
}
MOXIE_DEVICE std::uint64_t ordered_bits(double score) {
  const auto bits = math::detail::bits<std::uint64_t>(score + 0.0);
  return (bits >> 63) != 0 ? ~bits : bits | 0x8000000000000000U;
}
template <class T>
struct OrderedBits {
  using type = std::uint32_t;
};
template <>
struct OrderedBits<double> {
  using type = std::uint64_t;
};

/// A score and a token, ranked: the larger first, of equal scores the lower token. The first bits
/// of both, the rest 0, stand for all that begin so.
template <class T>
struct RankedToken {
  using Bits = typename OrderedBits<T>::type;
  static constexpr int score_bytes = static_cast<int>(sizeof(T));

  Bits score = 0;
  std::uint32_t token = 0;  // complement, so that the lower is the larger

  /// The byte-th byte from above.
  MOXIE_DEVICE unsigned digit(int byte, int token_bytes) const {
    const int shift = byte < score_bytes ? 8 * (score_bytes - 1 - byte)
                                         : 8 * (score_bytes + token_bytes - 1 - byte);
    return byte < score_bytes ? static_cast<unsigned>(score >> shift) & 255U
                              : (token >> shift) & 255U;
  }
  MOXIE_DEVICE void set_digit(int byte, int token_bytes, unsigned digit) {
    if (byte < score_bytes) {
      score |= Bits{digit} << (8 * (score_bytes - 1 - byte));
    } else {
      token |= digit << (8 * (score_bytes + token_bytes - 1 - byte));
    }
  }
  MOXIE_DEVICE RankedToken masked(const RankedToken& mask) const {
    RankedToken r;
    r.score = score & mask.score;
    r.token = token & mask.token;
    return r;
  }
  MOXIE_DEVICE bool ranks_above(const RankedToken& o) const {
    return score > o.score || (score == o.score && token > o.token);
  }
  MOXIE_DEVICE bool equals(const RankedToken& o) const {
    return score == o.score && token == o.token;
  }
};

inline constexpr std::size_t select_most_bytes = 32 * 1024;
/// Bytes of shared memory for `count` tokens of an expert and a group: they are sorted as a power
/// of two.
template <class T>
constexpr std::size_t select_bytes(Index count) {
  return sizeof(RankedToken<T>) << static_cast<unsigned>(bits_for(count));
}

/// CountTaken: a warp has a segment.
template <class B>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(select_threads)
    count_taken(ConstMatrix<B> scores, ConstIntVector<B> mask, TokenQuota quota, Index groups,
                IntVector<B> taken) {
  const Index segment = grid_warp_id();
  if (segment >= taken.size) return;
  Index count = 0;
  if (segment + 1 < taken.size) {
    const TokenScore<B> score{scores, mask, segment / groups, quota.positive};
    const Index first = segment % groups * quota.group;
    for (Index t = 0; t < quota.group && count < quota.count; t += warp_size) {
      const Index mine = t + lane_id();
      const bool admits = mine < quota.group && score.admits(first + mine);
      count += __popc(__ballot_sync(whole_warp, admits));
    }
  }
  if (lane_id() == 0)
    taken[segment] = static_cast<std::int32_t>(count < quota.count ? count : quota.count);
}

/// TakeLargest: a block has a segment.
template <class B>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(select_threads)
    take_largest(ConstMatrix<B> scores, ConstIntVector<B> mask, TokenQuota quota, Index groups,
                 ConstIntVector<B> begin, IntVector<B> token) {
  using T = typename B::Scalar;
  using Ranked = RankedToken<T>;
  MOXIE_DYNAMIC_SHARED(Ranked, chosen);
  MOXIE_SHARED(int[byte_values], count);
  MOXIE_SHARED(int, wanted);  // still, of those that begin as the threshold does
  MOXIE_SHARED(int, next);    // byte of the threshold
  MOXIE_SHARED(int, above);   // how many have a larger one
  MOXIE_SHARED(int, held);    // of `chosen`
  MOXIE_SHARED(int, not_numbers);
  const Index segment = Index{blockIdx.x};
  const int thread = static_cast<int>(threadIdx.x);
  const TokenScore<B> score{scores, mask, segment / groups, quota.positive};
  const Index first = segment % groups * quota.group;
  const int take = begin[segment + 1] - begin[segment];
  if (take == 0) return;
  std::int32_t* const to = token.data + begin[segment];
  const int token_bytes = (bits_for(quota.group) + 7) / 8;
  const auto ranked = [&](Index s) {
    Ranked r;
    r.score = ordered_bits(score(first + s));
    r.token = (~static_cast<std::uint32_t>(s)) &
              (0xffffffffU >> static_cast<unsigned>(32 - 8 * token_bytes));
    return r;
  };

  if (thread == 0) {
    wanted = take;
    held = 0;
    not_numbers = 0;
  }
  __syncthreads();
  for (Index s = thread; s < quota.group; s += blockDim.x)
    if (score.admits(first + s) && math::is_nan(score(first + s))) atomicAdd(&not_numbers, 1);
  __syncthreads();
  if (not_numbers > 0) {  // NaN has no rank: what the loop makes of it
    if (thread == 0) largest_ids(first, first + quota.group, Index{take}, score, to);
    return;
  }

  // All that begin with more than the threshold are taken, and those that begin with it as well
  // once there are just as many as still wanted.
  Ranked threshold;
  Ranked known;  // 1 where the threshold is known
  int bytes = 0;
  bool decided = false;
  while (!decided) {
    count[thread] = 0;
    __syncthreads();
    for (Index s = thread; s < quota.group; s += blockDim.x) {
      if (!score.admits(first + s)) continue;
      const Ranked r = ranked(s);
      if (r.masked(known).equals(threshold)) atomicAdd(&count[r.digit(bytes, token_bytes)], 1);
    }
    __syncthreads();
    if (warp_id() == 0) {  // the byte at which the sum from above reaches what is wanted
      int larger = 0;
      for (int top = byte_values - warp_size; top >= 0; top -= warp_size) {
        const int own = count[top + lane_id()];
        int from = own;  // sum of the values from this lane's on, inside the 32
        for (int step = 1; step < warp_size; step *= 2) {
          const int beyond = __shfl_down_sync(whole_warp, from, static_cast<unsigned>(step));
          if (lane_id() + step < warp_size) from += beyond;
        }
        const int before = larger + from - own;
        if (before < wanted && before + own >= wanted) {
          next = top + lane_id();
          above = before;
        }
        larger += __shfl_sync(whole_warp, from, 0);
      }
    }
    __syncthreads();
    const int left = wanted - above;
    decided = count[next] == left;
    threshold.set_digit(bytes, token_bytes, static_cast<unsigned>(next));
    known.set_digit(bytes, token_bytes, 255U);
    ++bytes;
    __syncthreads();
    if (thread == 0) wanted = left;
  }

  for (Index s = thread; s < quota.group; s += blockDim.x) {
    if (!score.admits(first + s)) continue;
    const Ranked r = ranked(s);
    const Ranked prefix = r.masked(known);
    if (prefix.ranks_above(threshold) || prefix.equals(threshold))
      chosen[atomicAdd(&held, 1)] = r;  // in any order: no two are equal, and they are sorted
  }
  const int size = 1 << bits_for(take);
  for (int i = take + thread; i < size; i += static_cast<int>(blockDim.x)) chosen[i] = Ranked{};
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {  // bitonic, descending
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = thread; i < size / 2; i += static_cast<int>(blockDim.x)) {
        const int low = 2 * i - (i & (step - 1));
        const Ranked a = chosen[low];
        const Ranked b = chosen[low + step];
        const bool descending = (low & run) == 0;
        if (descending ? b.ranks_above(a) : a.ranks_above(b)) {
          chosen[low] = b;
          chosen[low + step] = a;
        }
      }
      __syncthreads();
    }
  }
  const std::uint32_t all = 0xffffffffU >> static_cast<unsigned>(32 - 8 * token_bytes);
  for (int i = thread; i < take; i += static_cast<int>(blockDim.x))
    to[i] = static_cast<std::int32_t>(first) + static_cast<std::int32_t>(~chosen[i].token & all);
}

}  // namespace moxie::detail::device

#endif
