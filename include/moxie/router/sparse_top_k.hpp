#pragma once

#include "moxie/ops/rank.hpp"
#include "moxie/ops/sparse_transport_tokens.hpp"
#include "moxie/ops/top_k.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/sparse_plan.hpp"

namespace moxie {

namespace detail {
/// Scores by which a token's K choices come first, in their order, and behind them the other experts
/// by their similarity: of the plan those are all 0.
template <Backend B>
struct ChosenFirst {
  static constexpr bool one_level = true;
  ConstMatrix<B> plan, similarity;  // [T, E]; similarities are at most 1
  Index choices;
  Matrix<B> out;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    const T* row = plan.row(t);
    for (Index e = 0; e < out.cols; ++e) out(t, e) = similarity(t, e);
    Index last = -1;
    for (Index k = 0; k < choices; ++k) {
      last = next_in_rank(plan.cols, last, [=](Index e) { return row[e]; });
      if (last >= 0) out(t, last) = static_cast<T>(1 + choices - k);
    }
  }
};
}  // namespace detail

/// Sparsity-constrained token choice: each token takes the k experts of a transport plan whose rows have at most k
/// non-zeros (ops/sparse_transport.hpp); BatchPriority serves tokens by the plan too.
///
/// Similarities are the clean softmax, and so are the weights: noise is ignored but for what losses see of it. The plan
/// has no gradient. With the default 20 small steps it is little more than the softmax with a bias of +-0.2, and loads
/// can stay unbalanced. A token with fewer than k non-zeros takes experts of plan 0 as well, the lower first. Behind its
/// k choices experts rank by their similarity (Routes::rank): the plan says nothing of them.
/// Source: Liu et al., arXiv 2209.15466; V-MoE, `vmoe/projects/sparsity_constrained_ot`.
struct SparseTopKRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  Index k = 1;
  bool renormalize = false;
  Index max_iterations = 20;
  double learning_rate = 1e-2;
  double tolerance = 1e-3;  ///< a group stops after a step whose gradient was not longer
  double gamma = 1;         ///< weight of the quadratic regularizer, 1e-6 to 1e6

  Index choices(Index /*experts*/) const noexcept { return k; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * k; }
  bool plans() const noexcept { return true; }
  template <Backend B>
  std::size_t scratch_bytes(const B&, const RoutingShape& shape) const {
    Arena<B> measured(Gradients::all);
    SparseTokensMemory<B>().bind(measured, shape.tokens, shape.experts, shape.group, k);
    const std::size_t ranks =
        static_cast<std::size_t>(shape.tokens * shape.experts) * sizeof(typename B::Scalar);
    return measured.peak() > ranks ? measured.peak() : ranks;
  }
  /// @throws config_error unless 1 <= k <= experts and the numbers of the iteration make sense
  void check(Index experts) const {
    if (k < 1 || k > experts)
      throw_config("moxie::SparseTopKRouter: k is ", k, ", expected 1 to ", experts,
                   " (the number of experts)");
    detail::check_sparse("moxie::SparseTopKRouter", *this);
  }

  template <Backend B>
  void score(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    detail::score_softmax(b, r);
    Arena<B> arena(Gradients::all, r.scratch.data, static_cast<std::size_t>(r.scratch.size));
    SparseTokensMemory<B> memory;
    memory.bind(arena, r.shape.tokens, r.shape.experts, r.shape.group, k);
    sparse_transport_tokens(b, ConstMatrix<B>(r.probs), ctx.mask,
                            detail::sparse_options(*this, r.shape.group, k), memory, r.plan);
  }
  template <Backend B>
  ConstMatrix<B> ranked(B& b, const Context<B>&, const SparseRouting<B>& r) const {
    const Matrix<B> scores(reinterpret_cast<typename B::Scalar*>(r.scratch.data), r.shape.tokens,
                           r.shape.experts);
    b.for_each(r.shape.tokens, detail::ChosenFirst<B>{r.plan, r.probs, k, scores});
    return scores;
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    top_k_rows(b, ConstMatrix<B>(r.plan), ctx.mask, r.choice);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::weigh_by(b, CombineSource::softmax_clean, renormalize, r);
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
    detail::weigh_by_backward(b, CombineSource::softmax_clean, renormalize, r, g);
    detail::score_softmax_backward(b, r, g);
  }

  friend constexpr bool operator==(const SparseTopKRouter&, const SparseTopKRouter&) = default;
};

}  // namespace moxie
