#pragma once

#include <cstddef>
#include <type_traits>

#include "moxie/ops/row_map.hpp"
#include "moxie/routing/tensors.hpp"

namespace moxie::detail {

/// Experts whose sums over tokens are taken side by side: on a host a strip of them, so that rows are read as they lie.
template <class B>
inline constexpr Index sum_experts = std::is_same_v<typename B::Space, HostSpace> ? strip : 1;
template <class B>
MOXIE_HD constexpr Index sum_strips(Index experts) {
  return (experts + sum_experts<B> - 1) / sum_experts<B>;
}

/// sums[g, e] = sum of the probabilities of expert e over the tokens of group g that count; an index is a group and a strip.
template <Backend B>
struct GroupProbabilitySum {
  ConstMatrix<B> probs;
  ConstIntVector<B> mask;
  Index group;
  Vector<B> sums;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    constexpr Index width = sum_experts<B>;
    const Index strips = sum_strips<B>(probs.cols);
    const Index g = i / strips;
    const Index first = i % strips * width;
    const Index n = probs.cols - first;
    typename B::Scalar sum[static_cast<std::size_t>(width)] = {};
    for (Index t = g * group; t < (g + 1) * group; ++t) {
      if (mask && mask[t] == 0) continue;
      const auto* row = probs.row(t) + first;
      if (n >= width) {
        for (Index s = 0; s < width; ++s) sum[s] += row[s];
      } else {
        for (Index s = 0; s < n; ++s) sum[s] += row[s];
      }
    }
    for (Index s = 0; s < width && s < n; ++s) sums[g * probs.cols + first + s] = sum[s];
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

/// Tokens of group g that count.
template <class T, class Mask>
MOXIE_HD T count_tokens(const Mask& mask, Index group, Index g) {
  if (!mask) return static_cast<T>(group);
  Index n = 0;
  for (Index t = g * group; t < (g + 1) * group; ++t) n += mask[t] != 0 ? 1 : 0;
  return static_cast<T>(n);
}

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
