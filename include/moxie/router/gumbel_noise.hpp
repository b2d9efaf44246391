#pragma once

#include "moxie/core/error.hpp"
#include "moxie/router/add_draws.hpp"

namespace moxie {

/// Adds scale * Gumbel(0, 1) to every logit in training, a fresh draw for each step; none in evaluation. With scale 1 the
/// best expert is then a draw from the softmax, and the k best are draws without replacement. The noise's standard
/// deviation is scale * pi / sqrt(6), its mean scale * 0.5772; NoisyLoad takes any noise for Gaussian.
/// Source: Gumbel-max; DeepSpeed-MoE, `deepspeed/moe/sharded_moe.py`, top2gating.
struct GumbelNoise {
  double scale = 1.0;

  /// @throws config_error unless 0 <= scale <= 1e30
  void check(Index /*experts*/) const {
    if (!(scale >= 0 && scale <= 1e30))  // logits stay finite, in float as well
      throw_config("moxie::GumbelNoise: scale is ", scale, ", expected 0 to 1e30");
  }
  /// out = in + noise; returns the noise's standard deviation.
  template <Backend B>
  double add(B& b, const Context<B>& ctx, ConstMatrix<B> in, Matrix<B> out) const {
    check(in.cols);
    detail::add_draws<detail::GumbelStrip>(b, ctx, scale, in, out);
    return scale * 1.2825498301618641;  // pi / sqrt(6)
  }

  friend constexpr bool operator==(const GumbelNoise&, const GumbelNoise&) = default;
};

}  // namespace moxie
