#pragma once

#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/expert_choice_lists.hpp"

namespace moxie {

/// Expert choice: each expert takes the C tokens of each group that are most probable for it, the best first, ties to
/// the lower token. C is the capacity, without a factor K, and S if that is less.
///
/// Every expert is full, nothing overflows, and a token has 0 to E experts. weight = softmax(logits)[expert]. Selection
/// ranks probabilities, since it compares tokens. Which tokens an expert takes depends on all tokens of the group: make
/// a group the tokens of one image, or the result of an image depends on its neighbours in the batch.
/// Source: Zhou et al., "Mixture-of-Experts with Expert Choice Routing", arXiv 2202.09368; V-MoE, `vmoe/nn/routing.py`.
struct ExpertChoiceRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  CombineSource combine_source = CombineSource::softmax_noisy;

  Index choices(Index /*experts*/) const noexcept { return 1; }
  Index assignments(const RoutingShape& shape) const {
    return detail::expert_choice_assignments(shape);
  }
  bool ragged() const noexcept { return true; }
  template <Backend B>
  std::size_t scratch_bytes(const B& b, const RoutingShape& shape) const {
    return detail::expert_choice_bytes(b, shape);
  }
  /// @throws config_error if weights are to come from a plan
  void check(Index /*experts*/) const {
    detail::refuse_plan("moxie::ExpertChoiceRouter", combine_source);
  }

  template <Backend B>
  void score(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::score_softmax(b, r);
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::choose_tokens(b, ctx, ConstMatrix<B>(r.noisy_probs), false, r);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::weigh_by(b, combine_source, false, r);
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
    detail::weigh_by_backward(b, combine_source, false, r, g);
    detail::score_softmax_backward(b, r, g);
  }

  friend constexpr bool operator==(const ExpertChoiceRouter&, const ExpertChoiceRouter&) = default;
};

}  // namespace moxie
