#pragma once

#include "moxie/core/error.hpp"
#include "moxie/ops/softmax.hpp"
#include "moxie/ops/top_k.hpp"
#include "moxie/router/concept.hpp"

namespace moxie {

/// Whose probabilities the combine weights are.
enum class CombineSource { softmax_noisy, softmax_clean };

namespace detail {
template <Backend B>
struct WeighRow {
  ConstMatrix<B> probs;
  ConstIntMatrix<B> choice;
  Matrix<B> weight;
  bool renormalize;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    T sum = 0;
    for (Index k = 0; k < choice.cols; ++k) {
      const Index e = choice(t, k);
      weight(t, k) = e < 0 ? T(0) : probs(t, e);
      sum += weight(t, k);
    }
    if (!renormalize || !(sum > 0)) return;
    for (Index k = 0; k < choice.cols; ++k) weight(t, k) /= sum;
  }
};

template <Backend B>
struct WeighRowBackward {
  ConstMatrix<B> probs;
  ConstIntMatrix<B> choice;
  ConstMatrix<B> weight, d_weight;
  Matrix<B> d_probs;
  bool renormalize;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    T sum = 1;
    T inner = 0;
    if (renormalize) {
      sum = 0;
      for (Index k = 0; k < choice.cols; ++k) {
        if (choice(t, k) < 0) continue;
        sum += probs(t, choice(t, k));
        inner += d_weight(t, k) * weight(t, k);
      }
      if (!(sum > 0)) sum = 1;  // as forward, which then does not divide
    }
    for (Index k = 0; k < choice.cols; ++k)
      if (choice(t, k) >= 0) d_probs(t, choice(t, k)) += (d_weight(t, k) - inner) / sum;
  }
};
}  // namespace detail

/// Softmax token choice: each token takes its k most probable experts.
///
/// weight = softmax(logits)[expert], not renormalized over the k by default. With k = 1, `renormalize` makes every
/// weight 1 and kills the router's gradient. When capacity drops a choice, the denominator stays the sum over the
/// k selected. Selection ranks the logits, which are the same bits on every backend; a softmax is not.
/// Source: arXiv 2401.15969; V-MoE, `vmoe/nn/routing.py`.
struct TopKRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  Index k = 1;
  bool renormalize = false;
  CombineSource combine_source = CombineSource::softmax_noisy;

  Index choices(Index /*experts*/) const noexcept { return k; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * k; }
  /// @throws config_error unless 1 <= k <= experts
  void check(Index experts) const {
    if (k < 1 || k > experts)
      throw_config("moxie::TopKRouter: k is ", k, ", expected 1 to ", experts,
                   " (the number of experts)");
  }

  template <Backend B>
  void score(B& b, const Context<B>&, SparseRouting<B>& r) const {
    softmax_rows(b, ConstMatrix<B>(r.logits), r.probs);
    if (r.noisy()) softmax_rows(b, ConstMatrix<B>(r.noisy_logits), r.noisy_probs);
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    top_k_rows(b, ConstMatrix<B>(r.noisy_logits), ctx.mask, r.choice);
  }
  template <Backend B>
  void weigh(B& b, const Context<B>&, SparseRouting<B>& r) const {
    b.for_each(r.choice.rows, detail::WeighRow<B>{source(r), r.choice, r.weight, renormalize});
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
    const bool clean = combine_source == CombineSource::softmax_clean;
    b.for_each(r.choice.rows,
               detail::WeighRowBackward<B>{source(r), r.choice, r.weight, g.weight,
                                           clean ? g.probs : g.noisy_probs, renormalize});
    softmax_rows_backward(b, ConstMatrix<B>(r.probs), ConstMatrix<B>(g.probs), g.logits, true);
    if (r.noisy())
      softmax_rows_backward(b, ConstMatrix<B>(r.noisy_probs), ConstMatrix<B>(g.noisy_probs),
                            g.logits, true);
  }

  friend constexpr bool operator==(const TopKRouter&, const TopKRouter&) = default;

 private:
  template <Backend B>
  ConstMatrix<B> source(const SparseRouting<B>& r) const {
    return combine_source == CombineSource::softmax_clean ? r.probs : r.noisy_probs;
  }
};

}  // namespace moxie
