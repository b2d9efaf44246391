#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/group_sums.hpp"

namespace moxie {

namespace detail {
/// A group's squares are summed in so many parts, since a logarithm cannot be shared by experts.
inline constexpr Index z_parts = 16;

/// log(sum of exp(v)), the maximum subtracted first.
template <class T>
MOXIE_HD T log_sum_exp(const T* v, Index n) {
  T peak = v[0];
  for (Index i = 1; i < n; ++i) peak = math::maximum(peak, v[i]);
  T sum = 0;
  for (Index i = 0; i < n; ++i) sum += math::exp(v[i] - peak);
  return peak + math::log(sum);
}

/// Sums of a group: squares of the tokens t with t % z_parts = 0, 1, ... in the group, then the
/// number of tokens.
template <Backend B>
struct RouterZSum {
  static constexpr bool one_level = true;
  ConstMatrix<B> logits;
  ConstIntVector<B> mask;
  Index group;
  Vector<B> sums;

  MOXIE_HD void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index g = i / (z_parts + 1);
    const Index part = i % (z_parts + 1);
    if (part == z_parts) {
      sums[i] = count_tokens<T>(mask, group, g);
      return;
    }
    T sum = 0;
    for (Index t = g * group + part; t < (g + 1) * group; t += z_parts) {
      if (mask && mask[t] == 0) continue;
      const T z = log_sum_exp(logits.row(t), logits.cols);
      sum += z * z;
    }
    sums[i] = sum;
  }
};
template <class T>
struct RouterZLoss {
  MOXIE_HD T operator()(const T* sums) const {
    T total = 0;
    for (Index i = 0; i < z_parts; ++i) total += sums[i];
    return sums[z_parts] > 0 ? total / sums[z_parts] : T(0);
  }
};
template <Backend B>
struct RouterZBackward {
  static constexpr bool one_level = true;
  ConstMatrix<B> logits;
  ConstVector<B> sums;
  ConstIntVector<B> mask;
  Index group;
  double weight;
  Matrix<B> d_logits;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    if (mask && mask[t] == 0) return;
    const Index groups = sums.size / (z_parts + 1);
    const T tokens = sums[t / group * (z_parts + 1) + z_parts];
    const T* own = logits.row(t);
    const T z = log_sum_exp(own, logits.cols);
    const T scale = 2 * static_cast<T>(weight) * z / (tokens * static_cast<T>(groups));
    for (Index e = 0; e < logits.cols; ++e) d_logits(t, e) += scale * math::exp(own[e] - z);
  }
};
}  // namespace detail

/// Router z-loss: weight * mean over groups of the mean over tokens of (log sum_e exp(L_e))^2, on
/// the clean logits. It keeps logits small. Of soft routing, whose logits belong to slots, the sum
/// is over all slots and noise is in it. Source: ST-MoE (Zoph et al. 2022), eq. 5, weight 0.001.
struct RouterZ {
  double weight = 0.001;

  static constexpr std::string_view name = "router_z";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return s.groups() * (detail::z_parts + 1); }
  template <Backend B, HasLogits<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    b.for_each(sums.size, detail::RouterZSum<B>{r.logits, ctx.mask, r.shape.group, sums}, 1);
  }
  template <Backend B, HasLogits<B> Routing>
  void loss(B& b, const Context<B>&, const Routing& r, ConstVector<B> sums, Vector<B> out) const {
    using Loss = detail::RouterZLoss<typename B::Scalar>;
    b.for_each(1, detail::MeanOfGroups<B, Loss>{sums, r.shape.groups(), {}, weight, out});
  }
  template <Backend B, HasLogits<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    b.for_each(r.shape.tokens, detail::RouterZBackward<B>{r.logits, sums, ctx.mask, r.shape.group,
                                                          weight, g.logits});
  }
  friend constexpr bool operator==(const RouterZ&, const RouterZ&) = default;
};

}  // namespace moxie
