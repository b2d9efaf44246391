#pragma once

#include "moxie/regularizer/balance.hpp"

namespace moxie {

/// Balance loss of the best expert: weight * mean over groups of E * sum of f_e m_e, f_e = share of
/// tokens whose largest gate is that of e, m_e = mean of its gates; noisy gates in training, clean
/// in evaluation. 1 at balance, at most E.
///
/// f counts gates, not choices: neither capacity, nor a plan, nor a bias, nor routes from outside
/// change it. The gradient passes through m alone. Source: GShard (Lepikhin et al. 2020) and Switch
/// Transformers (Fedus et al. 2021, eq. 4), weight 0.01; with K choices they still count the first,
/// TopKBalance counts all.
struct SwitchBalance {
  double weight = 0.01;

  static constexpr std::string_view name = "switch_balance";
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
  friend constexpr bool operator==(const SwitchBalance&, const SwitchBalance&) = default;

 private:
  template <Backend B>
  detail::Balance<B> form(const SparseRouting<B>& /*r*/) const {
    return {.choices = 1, .weight = weight};
  }
};

}  // namespace moxie
