#pragma once

#include <type_traits>

#include "moxie/ops/group_sums.hpp"
#include "moxie/ops/row_map.hpp"
#include "moxie/routing/tensors.hpp"

namespace moxie::detail {

/// Sums over the tokens of each group, so many of them.
inline GroupShape token_sums(const RoutingShape& s, Index sums) noexcept {
  return {s.groups(), s.group, sums};
}

/// The probabilities of a token that counts.
template <Backend B>
struct ProbabilityTerm {
  ConstMatrix<B> probs;
  ConstIntVector<B> mask;

  struct Row {
    const typename B::Scalar* probs;

    MOXIE_HD MOXIE_INLINE explicit operator bool() const { return probs != nullptr; }
    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const { return probs[e]; }
  };
  MOXIE_HD MOXIE_INLINE Row of(Index t) const {
    return {mask && mask[t] == 0 ? nullptr : probs.row(t)};
  }
};

/// Tokens of an index of a functor that shares among them what is the same for a group.
template <class B>
inline constexpr Index block_tokens = std::is_same_v<typename B::Space, HostSpace> ? 64 : 1;
template <class B>
MOXIE_HD constexpr Index token_blocks(Index tokens) {
  return (tokens + block_tokens<B> - 1) / block_tokens<B>;
}
/// Tokens [first, last) of a block that lie in one group, then those in the next, as long as there are any:
///   for (TokenRun run(block_tokens<B>, i, tokens, group); run.any(); run.next())
struct TokenRun {
  Index group_tokens, end, first, last;

  MOXIE_HD MOXIE_INLINE TokenRun(Index block, Index i, Index tokens, Index tokens_of_group)
      : group_tokens(tokens_of_group),
        end((i + 1) * block < tokens ? (i + 1) * block : tokens),
        first(i * block),
        last(first) {
    next();
  }
  MOXIE_HD MOXIE_INLINE bool any() const { return first < end; }
  MOXIE_HD MOXIE_INLINE Index group() const { return first / group_tokens; }
  MOXIE_HD MOXIE_INLINE void next() {
    first = last;
    last = (first / group_tokens + 1) * group_tokens;
    if (last > end) last = end;
  }
};

/// out[0] = weight * mean over groups of loss(sums of the group).
template <Backend B, class Loss>
struct MeanOfGroups {
  static constexpr bool one_level = true;
  ConstVector<B> sums;  // [G, sums of a group]
  Index groups;
  Loss loss;
  double weight;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    T total = 0;
    for (Index g = 0; g < groups; ++g) total += loss(sums.data + g * (sums.size / groups));
    out[0] = groups > 0 ? static_cast<T>(weight) * total / static_cast<T>(groups) : T(0);
  }
};

}  // namespace moxie::detail
