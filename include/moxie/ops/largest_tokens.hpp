#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/largest_ids.hpp"

namespace moxie {

/// How many tokens an expert takes from each group.
struct TokenQuota {
  Index group = 0;        ///< S: tokens of a group, which lie together
  Index count = 0;        ///< C: the most an expert takes of one
  bool positive = false;  ///< only tokens with a score above 0
};

namespace detail {
template <Backend B>
struct TokenScore {
  ConstMatrix<B> scores;
  ConstIntVector<B> mask;
  Index expert;
  bool positive;

  MOXIE_HD MOXIE_INLINE bool admits(Index t) const {
    return !(mask && mask[t] == 0) && (!positive || scores(t, expert) > 0);
  }
  MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index t) const { return scores(t, expert); }
};

template <Backend B>
struct CountTaken {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;
  ConstIntVector<B> mask;
  TokenQuota quota;
  Index groups;
  IntVector<B> taken;  // [E*G + 1]

  MOXIE_HD void operator()(Index segment) const {
    Index count = 0;
    if (segment + 1 < taken.size) {
      const TokenScore<B> score{scores, mask, segment / groups, quota.positive};
      const Index first = segment % groups * quota.group;
      for (Index t = first; t < first + quota.group && count < quota.count; ++t)
        count += score.admits(t) ? 1 : 0;
    }
    taken[segment] = static_cast<std::int32_t>(count);
  }
};

template <Backend B>
struct TakeLargest {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;
  ConstIntVector<B> mask;
  TokenQuota quota;
  Index groups;
  ConstIntVector<B> begin;
  IntVector<B> token;

  MOXIE_HD void operator()(Index segment) const {
    const TokenScore<B> score{scores, mask, segment / groups, quota.positive};
    const Index first = segment % groups * quota.group;
    largest_ids(first, first + quota.group, begin[segment + 1] - begin[segment], score,
                token.data + begin[segment]);
  }
};
}  // namespace detail

/// For each expert e and group g, the tokens of the group with the C largest scores of column e:
/// token[begin[e*G + g] .. begin[e*G + g + 1]), descending, ties to the lower token. Masked tokens
/// are never taken, so an expert may take fewer than C.
///
/// scores: [T, E]; mask: [T] or empty; begin: [E*G + 1]; token: at least E*G*min(C, S) entries, of
/// which the first begin[E*G] are written. scratch: largest_tokens_bytes. Exact: compares scores,
/// and keeps its candidates in `token`.   Cost: O(S + kept log C) for each expert and group. Does
/// not block.
struct LargestTokens {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> scores, ConstIntVector<B> mask, const TokenQuota& quota,
                  IntVector<B> begin, IntVector<B> token, Scratch<B> scratch) const {
    detail::run_or_generic(*this, b, scores, mask, quota, begin, token, scratch);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> scores, ConstIntVector<B> mask, const TokenQuota& quota,
                      IntVector<B> begin, IntVector<B> token, Scratch<B> scratch) {
    const Index groups = quota.group > 0 ? scores.rows / quota.group : 0;
    b.for_each(begin.size, detail::CountTaken<B>{scores, mask, quota, groups, begin});
    b.exclusive_scan(ConstIntVector<B>(begin), begin, scratch);
    b.for_each(begin.size - 1, detail::TakeLargest<B>{scores, mask, quota, groups, begin, token},
               1);
  }
};
inline constexpr LargestTokens largest_tokens{};

/// Bytes of scratch of `largest_tokens` for E*G pairs of expert and group.
template <Backend B>
std::size_t largest_tokens_bytes(const B& b, Index pairs) {
  return b.exclusive_scan_bytes(pairs + 1);
}

}  // namespace moxie
