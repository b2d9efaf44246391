#pragma once

#include "moxie/regularizer/entropy.hpp"

namespace moxie {

namespace detail {
struct ThresholdForm {
  double threshold;

  static constexpr bool reads_local = false;
  static constexpr bool reads_global = true;
  template <class T>
  MOXIE_HD T value(T /*local*/, T global) const {
    const T missing = static_cast<T>(threshold) - global;
    return missing > 0 ? missing : T(0);
  }
  template <class T>
  MOXIE_HD T d_global(T global) const {
    return global < static_cast<T>(threshold) ? T(-1) : T(0);
  }
};
}  // namespace detail

/// Global entropy with a threshold: weight * mean over groups of max(0, log(used) - H(mean over
/// tokens of p)), p the clean probabilities of a token. 0, without gradient, as soon as the entropy
/// is that of `used` experts used alike. Source: LIMoE (Mustafa et al. 2022).
struct ThresholdEntropy {
  double weight = 0.01;
  double used = 0;  ///< experts that should be in use, a soft minimum; 0 = all

  static constexpr std::string_view name = "threshold_entropy";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return form(s).sums(s); }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    form(r.shape).accumulate(b, ctx, r, sums);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>&, const Routing& r, ConstVector<B> sums, Vector<B> out) const {
    form(r.shape).loss(b, r, sums, out);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    form(r.shape).loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const ThresholdEntropy&, const ThresholdEntropy&) = default;

 private:
  detail::Entropy<detail::ThresholdForm> form(const RoutingShape& s) const {
    return {.form = {math::log(used > 0 ? used : static_cast<double>(s.experts))},
            .weight = weight};
  }
};

}  // namespace moxie
