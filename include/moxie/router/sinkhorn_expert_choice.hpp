#pragma once

#include "moxie/router/expert_choice_lists.hpp"
#include "moxie/router/sinkhorn_plan.hpp"

namespace moxie {

/// Sinkhorn expert choice: ExpertChoiceRouter that ranks tokens by an entropy-regularized transport plan over the group
/// instead of the softmax, so that tokens are taken about equally often.
///
/// Weights are the softmax's by default; with CombineSource::plan they are the plan's, and the gradient is that of the
/// fixed point. plan_at_eval = false ranks by the softmax in evaluation.
/// Source: arXiv 2401.15969; V-MoE, `vmoe/projects/sparsity_constrained_ot`.
struct SinkhornExpertChoiceRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  /// weight of the entropy, 1e-6 to 1e6: the smaller, the nearer to a hard assignment
  double epsilon = 1;
  Index iterations = 20;  ///< at most
  double tolerance = 0;   ///< > 0: a group stops when its marginal error is at most this
  bool plan_at_eval = true;
  CombineSource combine_source = CombineSource::softmax_noisy;

  Index choices(Index /*experts*/) const noexcept { return 1; }
  Index assignments(const RoutingShape& shape) const {
    return detail::expert_choice_assignments(shape);
  }
  bool ragged() const noexcept { return true; }
  bool plans() const noexcept { return true; }
  template <Backend B>
  std::size_t scratch_bytes(const B& b, const RoutingShape& shape) const {
    const std::size_t plan = detail::sinkhorn_bytes<B>(shape);
    const std::size_t lists = detail::expert_choice_bytes(b, shape);
    return plan > lists ? plan : lists;
  }
  /// @throws config_error unless 1e-6 <= epsilon <= 1e6, iterations >= 1 and 0 <= tolerance <= 1e6
  void check(Index /*experts*/) const {
    detail::check_sinkhorn("moxie::SinkhornExpertChoiceRouter", *this);
  }

  template <Backend B>
  void score(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::score_sinkhorn(b, ctx, *this, r);
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::choose_tokens(b, ctx, ConstMatrix<B>(r.plan), false, r);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::weigh_by(b, detail::sinkhorn_source(*this, ctx.mode), false, r);
  }
  template <Backend B>
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    score(b, ctx, r);
    select(b, ctx, r);
    weigh(b, ctx, r);
  }
  template <Backend B>
  void route_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r,
                      RoutingGradients<SparseRouting<B>>& g) const {
    detail::sinkhorn_router_backward(b, ctx, *this, false, r, g);
  }

  friend constexpr bool operator==(const SinkhornExpertChoiceRouter&,
                                   const SinkhornExpertChoiceRouter&) = default;
};

}  // namespace moxie
