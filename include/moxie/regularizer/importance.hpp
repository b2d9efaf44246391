#pragma once

#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/squared_variation.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct GroupProbabilitySum {
  ConstMatrix<B> probs;
  ConstIntVector<B> mask;
  Index group;
  Vector<B> sums;

  MOXIE_HD void operator()(Index i) const {
    const Index g = i / probs.cols;
    const Index e = i % probs.cols;
    typename B::Scalar sum = 0;
    for (Index t = g * group; t < (g + 1) * group; ++t)
      if (!(mask && mask[t] == 0)) sum += probs(t, e);
    sums[i] = sum;
  }
};
template <Backend B>
struct ImportanceBackward {
  ConstVector<B> sums;
  ConstIntVector<B> mask;
  Index group;
  double weight;
  Matrix<B> d_probs;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    if (mask && mask[t] == 0) return;
    const Index experts = d_probs.cols;
    const T* own = sums.data + t / group * experts;
    const SquaredVariation<T> cv(own, experts);
    const T scale = static_cast<T>(weight) / static_cast<T>(sums.size / experts);
    for (Index e = 0; e < experts; ++e) d_probs(t, e) += scale * cv.derivative(own[e]);
  }
};
}  // namespace detail

/// Importance loss: weight * mean over groups of CV^2(I), I_e = sum of the clean probabilities of expert e in the
/// group, population variance. 0 at balance; at most E - 1.
/// Source: Shazeer et al. 2017, in the form of V-MoE, `vmoe/nn/routing.py`; its weight is 0.005 beside a load loss.
struct Importance {
  double weight = 0.005;

  static constexpr std::string_view name = "importance";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return s.groups() * s.experts; }
  template <Backend B>
  void accumulate(B& b, const Context<B>& ctx, const SparseRouting<B>& r, Vector<B> sums) const {
    b.for_each(sums.size, detail::GroupProbabilitySum<B>{r.probs, ctx.mask, r.shape.group, sums}, 1);
  }
  template <Backend B>
  void loss(B& b, const Context<B>&, const SparseRouting<B>& r, ConstVector<B> sums,
            Vector<B> out) const {
    b.for_each(1, detail::MeanSquaredVariation<B>{sums, r.shape.experts, weight, out});
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    b.for_each(r.shape.tokens, detail::ImportanceBackward<B>{sums, ctx.mask, r.shape.group, weight,
                                                             g.probs});
  }
  friend constexpr bool operator==(const Importance&, const Importance&) = default;
};

}  // namespace moxie
