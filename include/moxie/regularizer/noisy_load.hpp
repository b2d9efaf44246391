#pragma once

#include "moxie/regularizer/load_variation.hpp"

namespace moxie {

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
    form().accumulate(b, ctx, r, ConstMatrix<B>(r.logits), sums);
  }
  template <Backend B>
  void loss(B& b, const Context<B>&, const SparseRouting<B>& r, ConstVector<B> sums,
            Vector<B> out) const {
    form().loss(b, r, sums, out);
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    form().loss_backward(b, ctx, r, ConstMatrix<B>(r.logits), sums, g.logits, g.logits);
  }
  friend constexpr bool operator==(const NoisyLoad&, const NoisyLoad&) = default;

 private:
  detail::LoadVariation form() const { return {.weight = weight}; }
};

}  // namespace moxie
