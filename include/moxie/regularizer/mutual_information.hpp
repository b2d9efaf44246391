#pragma once

#include "moxie/regularizer/entropy.hpp"

namespace moxie {

namespace detail {
struct MutualForm {
  static constexpr bool reads_local = true;
  static constexpr bool reads_global = true;
  template <class T>
  MOXIE_HD T value(T local, T global) const {
    return local - global;
  }
  template <class T>
  MOXIE_HD T d_global(T /*global*/) const {
    return -1;
  }
};
}  // namespace detail

/// Mutual information of tokens and experts, negated: weight * mean over groups of (mean over
/// tokens of H(p) - H(mean over tokens of p)), p the clean probabilities of a token. Low where
/// tokens are sure and the experts used alike. In nats: -log E to 0. Source: LIMoE (Mustafa et al.
/// 2022), which weighs the two parts apart.
struct MutualInformation {
  double weight = 0.01;

  static constexpr std::string_view name = "mutual_information";
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
  friend constexpr bool operator==(const MutualInformation&, const MutualInformation&) = default;

 private:
  detail::Entropy<detail::MutualForm> form() const { return {.form = {}, .weight = weight}; }
};

}  // namespace moxie
