#pragma once

#include "moxie/regularizer/entropy.hpp"

namespace moxie {

namespace detail {
struct LocalForm {
  static constexpr bool reads_local = true;
  static constexpr bool reads_global = false;
  template <class T>
  MOXIE_HD T value(T local, T /*global*/) const {
    return local;
  }
};
}  // namespace detail

/// Local entropy: weight * mean over groups of the mean over tokens of H(p), p the clean
/// probabilities of a token. Low where tokens are sure of their expert. In nats: 0 to log E.
/// Source: LIMoE (Mustafa et al. 2022).
struct LocalEntropy {
  double weight = 0.01;

  static constexpr std::string_view name = "local_entropy";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return form().sums(s); }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    form().accumulate(b, ctx, r, sums);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>&, const Routing& r, ConstVector<B> sums, Vector<B> out) const {
    form().loss(b, r, sums, out);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    form().loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const LocalEntropy&, const LocalEntropy&) = default;

 private:
  detail::Entropy<detail::LocalForm> form() const { return {.form = {}, .weight = weight}; }
};

}  // namespace moxie
