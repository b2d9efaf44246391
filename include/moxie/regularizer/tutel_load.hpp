#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/load_sums.hpp"
#include "moxie/regularizer/squared_variation.hpp"

namespace moxie {

namespace detail {
/// z = (p - tau) / sigma with the clean probability p of expert e and the K-th largest noisy logit
/// tau of token t, whose expert is `last`.
template <Backend B>
struct TutelDistance {
  ConstMatrix<B> probs, noisy_logits;
  typename B::Scalar inverse;  // 1 / sigma

  struct Token {
    const typename B::Scalar* probs;
    typename B::Scalar threshold, inverse;

    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const {
      return (probs[e] - threshold) * inverse;
    }
  };
  MOXIE_HD MOXIE_INLINE Token of(Index t, Index last) const {
    return {probs.row(t), noisy_logits(t, last), inverse};
  }
};
template <Backend B>
struct TutelLoadTerm {
  TutelDistance<B> distance;

  struct Token {
    typename TutelDistance<B>::Token z;

    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const {
      return math::normal_distribution(z(e));
    }
  };
  MOXIE_HD MOXIE_INLINE Token of(Index t, Index last) const { return {distance.of(t, last)}; }
};
template <Backend B>
struct TutelLoadBackward {
  LoadThreshold<B> threshold;
  TutelDistance<B> distance;
  ConstVector<B> sums;
  Index group;
  double weight;
  Variation form;
  Matrix<B> d_probs, d_logits;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index experts = d_probs.cols;
    const T scale =
        static_cast<T>(weight) / static_cast<T>(sums.size / experts) * distance.inverse;
    for (TokenRun run(block_tokens<B>, i, d_probs.rows, group); run.any(); run.next()) {
      const T* own = sums.data + run.group() * experts;
      const SquaredVariation<T> cv(own, experts, form);
      for (Index t = run.first; t < run.last; ++t) {
        const Index last = threshold(t);
        if (last < 0) continue;
        const auto z = distance.of(t, last);
        d_logits(t, last) -= row_map_sum<true>(experts, d_probs.row(t), [=](Index e) {
          return math::normal_density(z(e)) * (scale * cv.derivative(own[e]));
        });
      }
    }
  }
};
}  // namespace detail

/// Tutel's load loss: weight * mean over groups of the CV^2 of P_e = sum over tokens of Phi((p -
/// tau) / sigma), with the clean probability p of expert e, a number in [0, 1], where the paper of
/// 2017 and V-MoE have its logit; tau is the token's K-th largest noisy logit, sigma the noise's
/// deviation. Unbiased variance over mean^2 + 1e-10; 0 for one expert.
///
/// Needs noise: a pass without it gives 0.
/// Source: Tutel, `tutel/impls/losses.py`, load_importance_loss.
struct TutelLoad {
  double weight = 0.005;

  static constexpr std::string_view name = "tutel_load";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return detail::load_sums(s); }
  template <Backend B>
  void accumulate(B& b, const Context<B>& ctx, const SparseRouting<B>& r, Vector<B> sums) const {
    if (!(r.noise_std > detail::least_noise)) {
      b.fill(sums, typename B::Scalar(0));
      return;
    }
    detail::accumulate_load(b, ctx, r, detail::TutelLoadTerm<B>{distance(r)}, sums);
  }
  template <Backend B>
  void loss(B& b, const Context<B>&, const SparseRouting<B>& r, ConstVector<B> sums,
            Vector<B> out) const {
    using Loss = detail::VariationLoss<typename B::Scalar>;
    b.for_each(1, detail::MeanOfGroups<B, Loss>{
                      detail::folded_load(sums, r.shape), r.shape.groups(), {r.shape.experts, variation}, weight, out});
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    if (!(r.noise_std > detail::least_noise)) return;
    b.for_each(detail::token_blocks<B>(r.shape.tokens),
               detail::TutelLoadBackward<B>{detail::load_threshold(ctx, r), distance(r),
                                            detail::folded_load(sums, r.shape), r.shape.group,
                                            weight, variation, g.probs, g.logits},
               1);
  }
  friend constexpr bool operator==(const TutelLoad&, const TutelLoad&) = default;

 private:
  static constexpr Variation variation{.unbiased = true, .epsilon = 1e-10};

  template <Backend B>
  static detail::TutelDistance<B> distance(const SparseRouting<B>& r) {
    return {r.probs, r.noisy_logits, static_cast<typename B::Scalar>(1 / r.noise_std)};
  }
};

}  // namespace moxie
