#pragma once

#include "moxie/regularizer/entropy.hpp"

namespace moxie {

namespace detail {
struct GlobalForm {
  static constexpr bool reads_local = false;
  static constexpr bool reads_global = true;
  template <class T>
  MOXIE_HD T value(T /*local*/, T global) const {
    return -global;
  }
  template <class T>
  MOXIE_HD T d_global(T /*global*/) const {
    return -1;
  }
};
}  // namespace detail

/// Global entropy: -weight * mean over groups of H(mean over tokens of p), p the clean
/// probabilities of a token. Low where the experts are used alike. In nats: -log E to 0.
/// ThresholdEntropy stops where enough experts are used. Source: LIMoE (Mustafa et al. 2022).
struct GlobalEntropy {
  double weight = 0.01;

  static constexpr std::string_view name = "global_entropy";
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
  friend constexpr bool operator==(const GlobalEntropy&, const GlobalEntropy&) = default;

 private:
  detail::Entropy<detail::GlobalForm> form() const { return {.form = {}, .weight = weight}; }
};

}  // namespace moxie
