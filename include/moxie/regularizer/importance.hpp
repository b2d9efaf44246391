#pragma once

#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/squared_variation.hpp"

namespace moxie {

/// Importance loss: weight * mean over groups of CV^2(I), I_e = sum of the clean probabilities of
/// expert e in the group. 0 at balance; at most E - 1 with the population variance. Source: Shazeer
/// et al. 2017, in the form of V-MoE, `vmoe/nn/routing.py`; its weight is 0.005 beside a load loss.
struct Importance {
  double weight = 0.005;
  Variation variation{};

  static constexpr std::string_view name = "importance";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return group_sums_size(shape(s)); }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    group_sums(b, shape(r.shape), detail::ProbabilityTerm<B>{r.probs, ctx.mask}, sums);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>&, const Routing& r, ConstVector<B> sums, Vector<B> out) const {
    using Loss = detail::VariationLoss<typename B::Scalar>;
    b.for_each(1, detail::MeanOfGroups<B, Loss>{group_totals(sums, shape(r.shape)),
                                                r.shape.groups(),
                                                {r.shape.experts, variation},
                                                weight,
                                                out});
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    b.for_each(detail::token_blocks<B>(r.shape.tokens),
               detail::VariationBackward<B>{group_totals(sums, shape(r.shape)), ctx.mask,
                                            r.shape.group, weight, variation, g.probs},
               1);
  }
  friend constexpr bool operator==(const Importance&, const Importance&) = default;

 private:
  static GroupShape shape(const RoutingShape& s) noexcept {
    return detail::token_sums(s, s.experts);
  }
};

}  // namespace moxie
