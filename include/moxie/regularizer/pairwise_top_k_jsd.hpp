#pragma once

#include "moxie/regularizer/jensen_shannon.hpp"

namespace moxie {

/// PairwiseJsd with each of its two sums taken over the k largest probabilities of p_a and of p_b
/// respectively; ties go to the lower expert. It may be negative, since parts of a divergence are.
/// Source: `jsd_topk` of the released code of Pairwise Router Consistency, as a mean over pairs.
struct PairwiseTopKJsd {
  double weight = 0.01;
  Index k = 2;

  static constexpr std::string_view name = "pairwise_jsd_topk";
  static constexpr bool per_group = false;

  /// @throws config_error unless k >= 1
  Index sums(const RoutingShape&) const {
    if (k < 1) throw_config("moxie::PairwiseTopKJsd: k is ", k, ", expected >= 1");
    return form().sums();
  }
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
  friend constexpr bool operator==(const PairwiseTopKJsd&, const PairwiseTopKJsd&) = default;

 private:
  detail::PairDistance<detail::JensenShannon> form() const {
    return {.distance = {.k = k}, .weight = weight};
  }
};

}  // namespace moxie
