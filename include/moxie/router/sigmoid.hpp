#pragma once

#include "moxie/core/error.hpp"
#include "moxie/ops/top_k.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/ranked_scores.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct SigmoidRow {
  ConstMatrix<B> in;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    const auto* from = in.row(t);
    row_map(in.cols, out.row(t), [=](Index e) { return math::sigmoid(from[e]); });
  }
};
template <Backend B>
struct SigmoidRowBackward {
  ConstMatrix<B> scores, d_scores;
  Matrix<B> d_logits;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const T* s = scores.row(t);
    const T* d = d_scores.row(t);
    T* to = d_logits.row(t);
    row_map(scores.cols, to, [=](Index e) { return to[e] + d[e] * s[e] * (T(1) - s[e]); });
  }
};

/// What a token ranks its experts by, outside its best groups the lowest number. A group's score is the sum of its two
/// largest scores, bias included; of equal groups the lower is better.
template <Backend B>
struct LimitToGroups {
  static constexpr bool one_level = true;
  ConstMatrix<B> logits, scores;
  ConstVector<B> bias;
  Index kept;
  Matrix<B> of_group;  // [T, groups]
  Matrix<B> ranked;    // [T, E]

  MOXIE_HD typename B::Scalar biased(Index t, Index e) const {
    return bias ? scores(t, e) + bias[e] : scores(t, e);
  }
  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    const Index groups = of_group.cols;
    const Index size = scores.cols / groups;
    for (Index g = 0; g < groups; ++g) {
      T best = biased(t, g * size);
      T second = size > 1 ? math::lowest<T>() : T(0);  // a group of one has its one score
      for (Index e = g * size + 1; e < (g + 1) * size; ++e) {
        const T s = biased(t, e);
        if (s > best) {
          second = best;
          best = s;
        } else if (s > second) {
          second = s;
        }
      }
      of_group(t, g) = best + second;
    }
    for (Index g = 0; g < groups; ++g) {
      Index better = 0;
      for (Index other = 0; other < groups; ++other)
        better += of_group(t, other) > of_group(t, g) ||
                          (of_group(t, other) == of_group(t, g) && other < g)
                      ? 1
                      : 0;
      for (Index e = g * size; e < (g + 1) * size; ++e)
        ranked(t, e) = better >= kept ? math::lowest<T>() : bias ? biased(t, e) : logits(t, e);
    }
  }
};
}  // namespace detail

/// Sigmoid token choice: an expert's score is the sigmoid of its logit, whatever the others have; each token takes the k
/// largest. weight = scale * score, by default divided by the sum of the chosen scores.
///
/// With `expert_groups` > 1 a token first takes its `top_groups` best groups of E / expert_groups consecutive experts (a
/// group's score is the sum of its two largest), then its k experts inside them. In WithBias, groups and experts are
/// ranked by score + bias; weights never see the bias. Ties go to the lower group and expert.
///
/// r.probs are the scores: in (0, 1), but no distribution over experts. Importance, whose measure is relative, and the
/// balance losses need none; entropies and pairwise losses of probabilities do, and are not meant for this router.
/// Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", section 2.1.2, and its released gate for the groups.
struct SigmoidTopKRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;
  static constexpr bool ranks_logits = true;
  static constexpr bool ranks_with_bias = true;

  Index k = 1;
  Index expert_groups = 1;
  Index top_groups = 1;
  bool renormalize = true;
  double scale = 1;

  Index choices(Index /*experts*/) const noexcept { return k; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * k; }
  /// @throws config_error unless expert_groups divides the experts, 1 <= top_groups <= expert_groups, the groups that
  /// are taken have at least k experts, and 0 < scale <= 1e30
  void check(Index experts) const {
    constexpr const char* who = "moxie::SigmoidTopKRouter";
    if (expert_groups < 1 || experts % expert_groups != 0)
      throw_config(who, ": expert_groups is ", expert_groups, ", expected a divisor of ", experts,
                   " (the number of experts)");
    if (top_groups < 1 || top_groups > expert_groups)
      throw_config(who, ": top_groups is ", top_groups, ", expected 1 to ", expert_groups,
                   " (expert_groups)");
    const Index most = experts / expert_groups * top_groups;
    if (k < 1 || k > most)
      throw_config(
          who, ": k is ", k, ", expected 1 to ", most,
          expert_groups > 1 ? " (the experts of top_groups groups)" : " (the number of experts)");
    if (!(scale > 0 && scale <= 1e30))  // weights stay finite, in float as well
      throw_config(who, ": scale is ", scale, ", expected > 0 and at most 1e30");
  }
  template <Backend B>
  std::size_t scratch_bytes(const B&, const RoutingShape& shape) const {
    if (expert_groups == 1) return 0;
    return detail::ranked_scores_bytes<B>(shape) +
           static_cast<std::size_t>(shape.tokens * expert_groups) * sizeof(typename B::Scalar);
  }

  template <Backend B>
  void score(B& b, const Context<B>&, SparseRouting<B>& r) const {
    b.for_each(r.shape.tokens, detail::SigmoidRow<B>{r.logits, r.probs});
    if (r.noisy()) b.for_each(r.shape.tokens, detail::SigmoidRow<B>{r.noisy_logits, r.noisy_probs});
  }
  template <Backend B>
  ConstMatrix<B> ranked(B& b, const Context<B>&, const SparseRouting<B>& r) const {
    if (expert_groups == 1) return detail::ranked_scores(b, r);
    auto* memory = reinterpret_cast<typename B::Scalar*>(r.scratch.data);
    const Matrix<B> out(memory, r.shape.tokens, r.shape.experts);
    const Matrix<B> of_group(memory + out.size(), r.shape.tokens, expert_groups);
    b.for_each(r.shape.tokens, detail::LimitToGroups<B>{r.noisy_logits, r.noisy_probs, r.bias,
                                                        top_groups, of_group, out});
    return out;
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    top_k_rows(b, ranked(b, ctx, r), ctx.mask, r.choice);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::weigh_by(b, CombineSource::softmax_noisy, renormalize, r, scale);
  }
  template <Backend B>
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    score(b, ctx, r);
    select(b, ctx, r);
    weigh(b, ctx, r);
  }
  template <Backend B>
  void route_backward(B& b, const Context<B>&, const SparseRouting<B>& r,
                      RoutingGradients<SparseRouting<B>>& g) const {
    detail::weigh_by_backward(b, CombineSource::softmax_noisy, renormalize, r, g, scale);
    b.for_each(r.shape.tokens, detail::SigmoidRowBackward<B>{r.probs, g.probs, g.logits});
    if (r.noisy())
      b.for_each(r.shape.tokens,
                 detail::SigmoidRowBackward<B>{r.noisy_probs, g.noisy_probs, g.logits});
  }

  friend constexpr bool operator==(const SigmoidTopKRouter&, const SigmoidTopKRouter&) = default;
};

}  // namespace moxie
