#pragma once

#include "moxie/regularizer/balance.hpp"

namespace moxie {

/// Balance loss of all K choices: weight * mean over groups of E / (S K) * sum of n_e m_e, n_e =
/// tokens that have e among their K largest gates, m_e = mean of its gates; noisy gates in
/// training, clean in evaluation. 1 at balance; SwitchBalance for K = 1. S and the means are over
/// the tokens that count; K is the choices of the shape.
///
/// n counts gates, not choices: neither capacity, nor a plan, nor a bias, nor routes from outside
/// change it. The gradient passes through m alone. Source: MegaBlocks, `megablocks/layers/moe.py`,
/// batched_load_balancing_loss.
struct TopKBalance {
  double weight = 0.01;

  static constexpr std::string_view name = "switch_topk";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept {
    return group_sums_size(detail::balance_sums(s));
  }
  template <Backend B>
  void accumulate(B& b, const Context<B>& ctx, const SparseRouting<B>& r, Vector<B> sums) const {
    form(r).accumulate(b, ctx, r, sums);
  }
  template <Backend B>
  void loss(B& b, const Context<B>&, const SparseRouting<B>& r, ConstVector<B> sums,
            Vector<B> out) const {
    form(r).loss(b, r, sums, out);
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    form(r).loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const TopKBalance&, const TopKBalance&) = default;

 private:
  template <Backend B>
  detail::Balance<B> form(const SparseRouting<B>& r) const {
    return {.choices = r.shape.choices, .weight = weight};
  }
};

}  // namespace moxie
