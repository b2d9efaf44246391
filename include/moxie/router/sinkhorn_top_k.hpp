#pragma once

#include "moxie/ops/top_k.hpp"
#include "moxie/router/sinkhorn_plan.hpp"

namespace moxie {

/// Sinkhorn token choice: each token takes the k experts that an entropy-regularized transport plan over its group
/// gives it most of, so that experts are asked for about equally often.
///
/// The plan (ops/sinkhorn.hpp) has rows that sum to 1 and columns near S / E, and is also what BatchPriority serves
/// tokens by. Weights are the softmax's by default; with CombineSource::plan they are the plan's, and the gradient is
/// that of the fixed point. plan_at_eval = false routes by the logits alone in evaluation: the softmax then takes the
/// plan's place. A token's experts depend on all tokens of its group.
/// Source: Clark et al., arXiv 2202.01169 (S-BASE); V-MoE, `vmoe/projects/sparsity_constrained_ot`.
struct SinkhornTopKRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  Index k = 1;
  bool renormalize = false;
  /// weight of the entropy, 1e-6 to 1e6: the smaller, the nearer to a hard assignment
  double epsilon = 1;
  Index iterations = 20;  ///< at most
  double tolerance = 0;   ///< > 0: a group stops when its marginal error is at most this
  bool plan_at_eval = true;
  CombineSource combine_source = CombineSource::softmax_noisy;

  Index choices(Index /*experts*/) const noexcept { return k; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * k; }
  bool plans() const noexcept { return true; }
  template <Backend B>
  std::size_t scratch_bytes(const B&, const RoutingShape& shape) const {
    return detail::sinkhorn_bytes<B>(shape);
  }
  /// @throws config_error unless 1 <= k <= experts, 1e-6 <= epsilon <= 1e6, iterations >= 1 and 0 <= tolerance <= 1e6
  void check(Index experts) const {
    if (k < 1 || k > experts)
      throw_config("moxie::SinkhornTopKRouter: k is ", k, ", expected 1 to ", experts,
                   " (the number of experts)");
    detail::check_sinkhorn("moxie::SinkhornTopKRouter", *this);
  }

  template <Backend B>
  void score(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::score_sinkhorn(b, ctx, *this, r);
  }
  template <Backend B>
  ConstMatrix<B> ranked(B&, const Context<B>& ctx, const SparseRouting<B>& r) const {
    return detail::plans_in(*this, ctx.mode) ? r.plan : r.noisy_logits;
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    top_k_rows(b, ranked(b, ctx, r), ctx.mask, r.choice);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::weigh_by(b, detail::sinkhorn_source(*this, ctx.mode), renormalize, r);
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
    detail::sinkhorn_router_backward(b, ctx, *this, renormalize, r, g);
  }

  friend constexpr bool operator==(const SinkhornTopKRouter&, const SinkhornTopKRouter&) = default;
};

}  // namespace moxie
