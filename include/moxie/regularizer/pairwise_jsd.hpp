#pragma once

#include "moxie/regularizer/jensen_shannon.hpp"

namespace moxie {

/// Divergence of routes in two views: weight * mean over the pairs of `Pass::pairs` of
/// KL(p_a | m) / 2 + KL(p_b | m) / 2, m = (p_a + p_b) / 2, p the clean probabilities of a token. In nats:
/// 0 to log 2; 0 without pairs. Nothing in it asks for balance. Source: `jsd` of the released code of
/// Pairwise Router Consistency, which multiplies each image's sum by the number of its pairs.
struct PairwiseJsd {
  double weight = 0.01;

  static constexpr std::string_view name = "pairwise_jsd";
  static constexpr bool per_group = false;

  Index sums(const RoutingShape&) const noexcept { return form().sums(); }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    form().accumulate(b, ctx, r, sums);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>& ctx, const Routing&, ConstVector<B> sums, Vector<B> out) const {
    form().loss(b, ctx, sums, out);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    form().loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const PairwiseJsd&, const PairwiseJsd&) = default;

 private:
  detail::PairDistance<detail::JensenShannon> form() const {
    return {.distance = {}, .weight = weight};
  }
};

}  // namespace moxie
