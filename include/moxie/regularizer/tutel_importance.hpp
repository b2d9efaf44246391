#pragma once

#include "moxie/regularizer/importance.hpp"

namespace moxie {

/// Tutel's importance loss: that of V-MoE with the unbiased variance over mean^2 + 1e-10. 0 for one
/// expert, where Tutel's is NaN. Tutel halves the sum of importance and load; here each has its
/// weight. Source: Tutel, `tutel/impls/losses.py`, load_importance_loss.
struct TutelImportance {
  double weight = 0.005;

  static constexpr std::string_view name = "tutel_importance";
  static constexpr bool per_group = true;

  Index sums(const RoutingShape& s) const noexcept { return form().sums(s); }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    form().accumulate(b, ctx, r, sums);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
            Vector<B> out) const {
    form().loss(b, ctx, r, sums, out);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    form().loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const TutelImportance&, const TutelImportance&) = default;

 private:
  Importance form() const {
    return {.weight = weight, .variation = {.unbiased = true, .epsilon = 1e-10}};
  }
};

}  // namespace moxie
