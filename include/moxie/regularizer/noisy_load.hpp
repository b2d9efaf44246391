#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/load_sums.hpp"
#include "moxie/regularizer/squared_variation.hpp"

namespace moxie {

namespace detail {
/// z = (tau - L) / sigma: how far the clean logit of expert e lies below token t's threshold, in
/// standard deviations of the noise. tau is the K-th largest noisy logit, `last` its expert.
template <Backend B>
struct LoadDistance {
  ConstMatrix<B> logits, noisy_logits;
  typename B::Scalar inverse;  // 1 / sigma

  struct Token {
    const typename B::Scalar* logits;
    typename B::Scalar threshold, inverse;

    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const {
      return (threshold - logits[e]) * inverse;
    }
  };
  MOXIE_HD MOXIE_INLINE Token of(Index t, Index last) const {
    return {logits.row(t), noisy_logits(t, last), inverse};
  }
};
/// The probability that fresh noise puts expert e above the threshold.
template <Backend B>
struct LoadProbability {
  LoadDistance<B> distance;

  struct Token {
    typename LoadDistance<B>::Token z;

    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const {
      return math::normal_distribution(-z(e));
    }
  };
  MOXIE_HD MOXIE_INLINE Token of(Index t, Index last) const { return {distance.of(t, last)}; }
};
template <Backend B>
struct LoadBackward {
  LoadThreshold<B> threshold;
  LoadDistance<B> distance;
  ConstVector<B> sums;
  Index group;
  double weight;
  Matrix<B> d_logits;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index experts = d_logits.cols;
    const T scale =
        static_cast<T>(weight) / static_cast<T>(sums.size / experts) * distance.inverse;
    for (TokenRun run(block_tokens<B>, i, d_logits.rows, group); run.any(); run.next()) {
      const T* own = sums.data + run.group() * experts;
      const SquaredVariation<T> cv(own, experts);
      for (Index t = run.first; t < run.last; ++t) {
        const Index last = threshold(t);
        if (last < 0) continue;
        const auto z = distance.of(t, last);
        // The threshold moves with its own logit: it is not detached.
        d_logits(t, last) -= row_map_sum<true>(experts, d_logits.row(t), [=](Index e) {
          return math::normal_density(z(e)) * (scale * cv.derivative(own[e]));
        });
      }
    }
  }
};
}  // namespace detail

/// Load loss: weight * mean over groups of CV^2(P), P_e = mean over tokens of the probability that
/// fresh noise would put expert e above the token's K-th largest noisy logit. K is the shape's
/// `choices`, whatever was chosen in the end.
///
/// Needs noise: a pass without it (evaluation, or a router without WithNoise) gives 0. The
/// threshold is the K-th largest overall, not without e as in the paper of 2017. Source: V-MoE,
/// `vmoe/nn/routing.py`, load loss; Tutel's of the same name is another formula (TutelLoad).
struct NoisyLoad {
  double weight = 0.005;

  static constexpr std::string_view name = "load";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return detail::load_sums(s); }
  template <Backend B>
  void accumulate(B& b, const Context<B>& ctx, const SparseRouting<B>& r, Vector<B> sums) const {
    if (!(r.noise_std > detail::least_noise)) {
      b.fill(sums, typename B::Scalar(0));
      return;
    }
    detail::accumulate_load(b, ctx, r, detail::LoadProbability<B>{distance(r)}, sums);
  }
  template <Backend B>
  void loss(B& b, const Context<B>&, const SparseRouting<B>& r, ConstVector<B> sums,
            Vector<B> out) const {
    using Loss = detail::VariationLoss<typename B::Scalar>;
    b.for_each(
        1, detail::MeanOfGroups<B, Loss>{detail::folded_load(sums, r.shape), r.shape.groups(), {r.shape.experts}, weight, out});
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    if (!(r.noise_std > detail::least_noise)) return;
    b.for_each(detail::token_blocks<B>(r.shape.tokens),
               detail::LoadBackward<B>{detail::load_threshold(ctx, r), distance(r),
                                       detail::folded_load(sums, r.shape), r.shape.group, weight,
                                       g.logits},
               1);
  }
  friend constexpr bool operator==(const NoisyLoad&, const NoisyLoad&) = default;

 private:
  template <Backend B>
  static detail::LoadDistance<B> distance(const SparseRouting<B>& r) {
    return {r.logits, r.noisy_logits, static_cast<typename B::Scalar>(1 / r.noise_std)};
  }
};

}  // namespace moxie
