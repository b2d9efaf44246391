#pragma once

#include "moxie/core/error.hpp"
#include "moxie/ops/softmax_top_k.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/ranked_scores.hpp"

namespace moxie {

/// Softmax token choice: each token takes its k most probable experts.
///
/// weight = softmax(logits)[expert], not renormalized over the k by default. With k = 1, `renormalize` makes every
/// weight 1 and kills the router's gradient. When capacity drops a choice, the denominator stays the sum over the
/// k selected. Selection ranks the logits, which are the same bits on every backend; a softmax is not. In WithBias it
/// ranks the probabilities + bias.
/// Source: arXiv 2401.15969; V-MoE, `vmoe/nn/routing.py`.
struct TopKRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;
  static constexpr bool ranks_logits = true;
  static constexpr bool ranks_with_bias = true;

  Index k = 1;
  bool renormalize = false;
  CombineSource combine_source = CombineSource::softmax_noisy;

  Index choices(Index /*experts*/) const noexcept { return k; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * k; }
  /// @throws config_error unless 1 <= k <= experts and the weights are those of a softmax
  void check(Index experts) const {
    if (k < 1 || k > experts)
      throw_config("moxie::TopKRouter: k is ", k, ", expected 1 to ", experts,
                   " (the number of experts)");
    detail::refuse_plan("moxie::TopKRouter", combine_source);
  }

  template <Backend B>
  void score(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::score_softmax(b, r);
  }
  template <Backend B>
  ConstMatrix<B> ranked(B& b, const Context<B>&, const SparseRouting<B>& r) const {
    return detail::ranked_scores(b, r);
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    top_k_rows(b, ranked(b, ctx, r), ctx.mask, r.choice);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::weigh_by(b, combine_source, renormalize, r);
  }
  template <Backend B>
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    if (r.bias) {
      score(b, ctx, r);
      select(b, ctx, r);
    } else {  // both read the logits alone
      if (r.noisy()) softmax_rows(b, ConstMatrix<B>(r.logits), r.probs);
      softmax_top_k_rows(b, ConstMatrix<B>(r.noisy_logits), ctx.mask, r.noisy_probs, r.choice);
    }
    weigh(b, ctx, r);
  }
  template <Backend B>
  void route_backward(B& b, const Context<B>&, const SparseRouting<B>& r,
                      RoutingGradients<SparseRouting<B>>& g) const {
    detail::weigh_by_backward(b, combine_source, renormalize, r, g);
    detail::score_softmax_backward(b, r, g);
  }

  friend constexpr bool operator==(const TopKRouter&, const TopKRouter&) = default;
};

}  // namespace moxie
