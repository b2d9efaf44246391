#pragma once

#include "moxie/regularizer/load_variation.hpp"

namespace moxie {

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
    form().accumulate(b, ctx, r, ConstMatrix<B>(r.probs), sums);
  }
  template <Backend B>
  void loss(B& b, const Context<B>&, const SparseRouting<B>& r, ConstVector<B> sums,
            Vector<B> out) const {
    form().loss(b, r, sums, out);
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    form().loss_backward(b, ctx, r, ConstMatrix<B>(r.probs), sums, g.probs, g.logits);
  }
  friend constexpr bool operator==(const TutelLoad&, const TutelLoad&) = default;

 private:
  detail::LoadVariation form() const {
    return {.weight = weight, .form = {.unbiased = true, .epsilon = 1e-10}};
  }
};

}  // namespace moxie
