#pragma once

#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/gate_rank.hpp"
#include "moxie/regularizer/group_sums.hpp"

namespace moxie::detail {

/// What SwitchBalance and TopKBalance share: E / (S K) * sum of n_e m_e, where n_e counts the
/// tokens that have expert e among their K largest gates, and m_e is the mean of its gates; S
/// tokens count. Sums of a group: n [E], S m [E].
inline GroupShape balance_sums(const RoutingShape& s) noexcept {
  return token_sums(s, 2 * s.experts);
}

template <Backend B>
struct BalanceTerm {
  static constexpr bool one_level = true;
  ConstMatrix<B> logits, probs;
  ConstIntVector<B> mask;
  Index choices;

  struct Row {
    const typename B::Scalar *logits, *probs;
    Index experts, choices;

    MOXIE_HD explicit operator bool() const { return probs != nullptr; }
    MOXIE_HD typename B::Scalar operator()(Index c) const {
      using T = typename B::Scalar;
      if (c >= experts) return probs[c - experts];
      return in_top(logits, experts, c, choices) ? T(1) : T(0);
    }
  };
  MOXIE_HD Row of(Index t) const {
    if (mask && mask[t] == 0) return {};
    return {logits.row(t), probs.row(t), probs.cols, choices};
  }
};

template <class T>
struct BalanceLoss {
  Index experts, choices;

  /// E / (S^2 K): what n_e and the sum of the gates are multiplied by. 0 if no token counts.
  MOXIE_HD T scale(const T* sums) const {
    T selections = 0;
    for (Index e = 0; e < experts; ++e) selections += sums[e];
    if (!(selections > 0)) return 0;
    return static_cast<T>(experts) * static_cast<T>(choices) / (selections * selections);
  }
  MOXIE_HD T operator()(const T* sums) const {
    T inner = 0;
    for (Index e = 0; e < experts; ++e) inner += sums[e] * sums[experts + e];
    return scale(sums) * inner;
  }
};

template <Backend B>
struct BalanceBackward {  // through m alone: a count has no gradient
  static constexpr bool one_level = true;
  ConstVector<B> sums;
  ConstIntVector<B> mask;
  Index group;
  BalanceLoss<typename B::Scalar> loss;
  double weight;
  Matrix<B> d_probs;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    if (mask && mask[t] == 0) return;
    const Index experts = d_probs.cols;
    const T* own = sums.data + t / group * 2 * experts;
    const T scale =
        static_cast<T>(weight) * loss.scale(own) / static_cast<T>(sums.size / (2 * experts));
    for (Index e = 0; e < experts; ++e) d_probs(t, e) += scale * own[e];
  }
};

/// The three parts of a balance loss of the `choices` largest gates.
template <Backend B>
struct Balance {
  Index choices;
  double weight;

  void accumulate(B& b, const Context<B>& ctx, const SparseRouting<B>& r, Vector<B> sums) const {
    group_sums(b, balance_sums(r.shape),
               BalanceTerm<B>{r.noisy_logits, r.noisy_probs, ctx.mask, choices}, sums);
  }
  void loss(B& b, const SparseRouting<B>& r, ConstVector<B> sums, Vector<B> out) const {
    using Loss = BalanceLoss<typename B::Scalar>;
    b.for_each(1, MeanOfGroups<B, Loss>{group_totals(sums, balance_sums(r.shape)),
                                        r.shape.groups(),
                                        {r.shape.experts, choices},
                                        weight,
                                        out});
  }
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    b.for_each(r.shape.tokens, BalanceBackward<B>{group_totals(sums, balance_sums(r.shape)),
                                                  ctx.mask,
                                                  r.shape.group,
                                                  {r.shape.experts, choices},
                                                  weight,
                                                  g.noisy_probs});
  }
};

}  // namespace moxie::detail
