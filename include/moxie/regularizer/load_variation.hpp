#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/load_sums.hpp"
#include "moxie/regularizer/squared_variation.hpp"

namespace moxie::detail {

/// (v - tau) / sigma: how far the clean value of expert e lies above token t's threshold, in standard deviations of the noise.
/// tau is the K-th largest noisy logit, `last` its expert.
template <Backend B>
struct LoadMargin {
  ConstMatrix<B> values, noisy_logits;
  typename B::Scalar inverse;  // 1 / sigma

  struct Token {
    const typename B::Scalar* values;
    typename B::Scalar threshold, inverse;

    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const {
      return (values[e] - threshold) * inverse;
    }
  };
  MOXIE_HD MOXIE_INLINE Token of(Index t, Index last) const {
    return {values.row(t), noisy_logits(t, last), inverse};
  }
};
/// The probability that fresh noise puts expert e above the threshold.
template <Backend B>
struct LoadProbability {
  LoadMargin<B> margin;

  struct Token {
    typename LoadMargin<B>::Token z;

    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const {
      return math::normal_distribution(z(e));
    }
  };
  MOXIE_HD MOXIE_INLINE Token of(Index t, Index last) const { return {margin.of(t, last)}; }
};
template <Backend B>
struct LoadBackward {
  LoadThreshold<B> threshold;
  LoadMargin<B> margin;
  ConstVector<B> sums;
  Index group;
  double weight;
  Variation form;
  Matrix<B> d_values, d_logits;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index experts = d_values.cols;
    const T scale = static_cast<T>(weight) / static_cast<T>(sums.size / experts) * margin.inverse;
    for (TokenRun run(block_tokens<B>, i, d_values.rows, group); run.any(); run.next()) {
      const T* own = sums.data + run.group() * experts;
      const SquaredVariation<T> cv(own, experts, form);
      for (Index t = run.first; t < run.last; ++t) {
        const Index last = threshold(t);
        if (last < 0) continue;
        const auto z = margin.of(t, last);
        // The threshold moves with its own logit: it is not detached.
        d_logits(t, last) -= row_map_sum<true>(experts, d_values.row(t), [=](Index e) {
          return math::normal_density(z(e)) * (scale * cv.derivative(own[e]));
        });
      }
    }
  }
};

/// What the load losses share: weight * mean over groups of CV^2(P), P_e = sum over tokens of Phi((v_e - tau) / sigma), v the
/// clean values that a loss compares with the K-th largest noisy logit tau. Nothing without noise.
struct LoadVariation {
  double weight;
  Variation form{};

  template <Backend B>
  void accumulate(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstMatrix<B> values,
                  Vector<B> sums) const {
    if (!noisy(r)) {
      b.fill(sums, typename B::Scalar(0));
      return;
    }
    accumulate_load(b, ctx, r, LoadProbability<B>{margin(r, values)}, sums);
  }
  template <Backend B>
  void loss(B& b, const SparseRouting<B>& r, ConstVector<B> sums, Vector<B> out) const {
    using Loss = VariationLoss<typename B::Scalar>;
    b.for_each(
        1, MeanOfGroups<B, Loss>{
               folded_load(sums, r.shape), r.shape.groups(), {r.shape.experts, form}, weight, out});
  }
  /// Adds to d_values, the gradient of `values`, and, for the threshold, to d_logits; they may be the same.
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstMatrix<B> values,
                     ConstVector<B> sums, Matrix<B> d_values, Matrix<B> d_logits) const {
    if (!noisy(r)) return;
    b.for_each(
        token_blocks<B>(r.shape.tokens),
        LoadBackward<B>{load_threshold(ctx, r), margin(r, values), folded_load(sums, r.shape),
                        r.shape.group, weight, form, d_values, d_logits},
        1);
  }

 private:
  template <Backend B>
  static bool noisy(const SparseRouting<B>& r) {
    return r.noise_std > least_noise;
  }
  template <Backend B>
  static LoadMargin<B> margin(const SparseRouting<B>& r, ConstMatrix<B> values) {
    return {values, r.noisy_logits, static_cast<typename B::Scalar>(1 / r.noise_std)};
  }
};

}  // namespace moxie::detail
