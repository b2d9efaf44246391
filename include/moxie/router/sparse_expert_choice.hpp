#pragma once

#include "moxie/ops/sparse_transport_experts.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/expert_choice_lists.hpp"
#include "moxie/router/sparse_plan.hpp"

namespace moxie {

/// Sparsity-constrained expert choice: ExpertChoiceRouter that ranks tokens by a transport plan between the group's
/// tokens and the experts whose columns have at most C non-zeros (ops/sparse_transport.hpp).
///
/// Similarities are the clean softmax, and so are the weights: noise is ignored but for what losses see of it. The plan
/// has no gradient. With the default 20 small steps it is little more than the softmax with a bias of +-0.2. An expert
/// with fewer than C non-zeros fills its slots with tokens of plan 0, the lower first.
/// Source: Liu et al., arXiv 2209.15466; V-MoE, `vmoe/projects/sparsity_constrained_ot`.
struct SparseExpertChoiceRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  Index max_iterations = 20;
  double learning_rate = 1e-2;
  double tolerance = 1e-3;  ///< a group stops after a step whose gradient was not longer
  double gamma = 1;         ///< weight of the quadratic regularizer, 1e-6 to 1e6
  bool fill_zero = true;    ///< false: slots without a non-zero stay empty
  bool quadratic = false;   ///< no limit of the non-zeros: the quadratic regularizer alone

  Index choices(Index /*experts*/) const noexcept { return 1; }
  Index assignments(const RoutingShape& shape) const {
    return detail::expert_choice_assignments(shape);
  }
  bool ragged() const noexcept { return true; }
  bool plans() const noexcept { return true; }
  template <Backend B>
  std::size_t scratch_bytes(const B& b, const RoutingShape& shape) const {
    Arena<B> plan(Gradients::all);
    SparseExpertsMemory<B>().bind(plan, shape.tokens, shape.experts, shape.group, nonzeros(shape));
    const std::size_t lists = detail::expert_choice_bytes(b, shape);
    return plan.peak() > lists ? plan.peak() : lists;
  }
  /// @throws config_error if the numbers of the iteration make no sense
  void check(Index /*experts*/) const {
    detail::check_sparse("moxie::SparseExpertChoiceRouter", *this);
  }

  template <Backend B>
  void score(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::score_softmax(b, r);
    Arena<B> arena(Gradients::all, r.scratch.data, static_cast<std::size_t>(r.scratch.size));
    SparseExpertsMemory<B> memory;
    memory.bind(arena, r.shape.tokens, r.shape.experts, r.shape.group, nonzeros(r.shape));
    sparse_transport_experts(b, ConstMatrix<B>(r.probs), ctx.mask,
                             detail::sparse_options(*this, r.shape.group, nonzeros(r.shape)),
                             memory, r.plan);
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::choose_tokens(b, ctx, ConstMatrix<B>(r.plan), !fill_zero, r);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::weigh_by(b, CombineSource::softmax_clean, false, r);
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
    detail::weigh_by_backward(b, CombineSource::softmax_clean, false, r, g);
    detail::score_softmax_backward(b, r, g);
  }

  friend constexpr bool operator==(const SparseExpertChoiceRouter&,
                                   const SparseExpertChoiceRouter&) = default;

 private:
  Index nonzeros(const RoutingShape& s) const {
    return quadratic || s.capacity > s.group ? s.group : s.capacity;
  }
};

}  // namespace moxie
