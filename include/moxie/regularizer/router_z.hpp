#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/group_sums.hpp"

namespace moxie {

namespace detail {
/// log(sum of exp(v)), the maximum subtracted first.
template <class T>
MOXIE_HD T log_sum_exp(const T* v, Index n) {
  T peak = v[0];
  for (Index i = 1; i < n; ++i) peak = math::maximum(peak, v[i]);
  T sum = 0;
  for (Index i = 0; i < n; ++i) sum += math::exp(v[i] - peak);
  return peak + math::log(sum);
}

/// Sums of a group: squares, number of tokens.
inline GroupShape z_sums(const RoutingShape& s) noexcept { return token_sums(s, 2); }

template <Backend B>
struct RouterZTerm {
  static constexpr bool one_level = true;
  static constexpr bool whole_rows = true;  // experts cannot share a logarithm
  ConstMatrix<B> logits;
  ConstIntVector<B> mask;

  struct Row {
    typename B::Scalar square;
    bool counts;

    MOXIE_HD explicit operator bool() const { return counts; }
    MOXIE_HD typename B::Scalar operator()(Index c) const { return c == 0 ? square : 1; }
  };
  MOXIE_HD Row of(Index t) const {
    if (mask && mask[t] == 0) return {};
    const auto z = log_sum_exp(logits.row(t), logits.cols);
    return {z * z, true};
  }
};
template <class T>
struct RouterZLoss {
  MOXIE_HD T operator()(const T* sums) const { return sums[1] > 0 ? sums[0] / sums[1] : T(0); }
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
    const Index groups = sums.size / 2;
    const T tokens = sums[t / group * 2 + 1];
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

  Index sums(const RoutingShape& s) const noexcept {
    return group_sums_size(detail::z_sums(s), true);
  }
  template <Backend B, HasLogits<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    group_sums(b, detail::z_sums(r.shape), detail::RouterZTerm<B>{r.logits, ctx.mask}, sums);
  }
  template <Backend B, HasLogits<B> Routing>
  void loss(B& b, const Context<B>&, const Routing& r, ConstVector<B> sums, Vector<B> out) const {
    using Loss = detail::RouterZLoss<typename B::Scalar>;
    b.for_each(1,
               detail::MeanOfGroups<B, Loss>{
                   group_totals(sums, detail::z_sums(r.shape)), r.shape.groups(), {}, weight, out});
  }
  template <Backend B, HasLogits<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    b.for_each(r.shape.tokens,
               detail::RouterZBackward<B>{r.logits, group_totals(sums, detail::z_sums(r.shape)),
                                          ctx.mask, r.shape.group, weight, g.logits});
  }
  friend constexpr bool operator==(const RouterZ&, const RouterZ&) = default;
};

}  // namespace moxie
