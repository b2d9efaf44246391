#pragma once

#include "moxie/core/error.hpp"
#include "moxie/router/add_draws.hpp"

namespace moxie {

/// Adds N(0, (std / E)^2) to every logit in training, a fresh draw for each step; none in evaluation.
/// The division by E is V-MoE's; `per_expert = false` leaves it out, as Soft MoE does.
struct GaussianNoise {
  double std = 1.0;
  bool per_expert = true;

  /// Whether logits stay finite, in float as well.
  bool valid() const { return std >= 0 && std <= 1e30; }
  double scale(Index experts) const {
    if (!valid()) throw_config("moxie::GaussianNoise: std is ", std, ", expected 0 to 1e30");
    return per_expert ? std / static_cast<double>(experts) : std;
  }
  /// @throws config_error unless 0 <= std <= 1e30
  void check(Index experts) const { (void)scale(experts); }
  /// out = in + noise; returns the noise's standard deviation.
  template <Backend B>
  double add(B& b, const Context<B>& ctx, ConstMatrix<B> in, Matrix<B> out) const {
    const double s = scale(in.cols);
    detail::add_draws<detail::NormalStrip>(b, ctx, s, in, out);
    return s;
  }

  friend constexpr bool operator==(const GaussianNoise&, const GaussianNoise&) = default;
};

/// A router whose selection and combine weights see noisy logits in training, while the losses also have the
/// clean ones. The noise is a constant: gradients pass to the clean logits unchanged.
template <class Noise, class R>
struct WithNoise : R {
  Noise noise{};

  WithNoise() = default;
  constexpr WithNoise(Noise added, R base) : R(base), noise(added) {}

  bool noisy() const { return true; }
  /// @throws config_error for hyper-parameters of noise or router that make no sense
  void check(Index experts) const {
    if constexpr (requires { noise.check(experts); }) noise.check(experts);
    if constexpr (requires(const R& r) { r.check(experts); }) R::check(experts);
  }
  template <Backend B>
  void score(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    if (r.noisy()) r.noise_std = noise.add(b, ctx, ConstMatrix<B>(r.logits), r.noisy_logits);
    R::score(b, ctx, r);
  }
  template <Backend B>
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    score(b, ctx, r);
    R::select(b, ctx, r);
    R::weigh(b, ctx, r);
  }

  friend constexpr bool operator==(const WithNoise&, const WithNoise&) = default;
};
template <class Noise, class R>
WithNoise(Noise, R) -> WithNoise<Noise, R>;

}  // namespace moxie
