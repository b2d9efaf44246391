#pragma once

#include "moxie/gate/slot.hpp"
#include "moxie/ops/row_map.hpp"
#include "moxie/ops/softmax.hpp"
#include "moxie/ops/softmax_tokens.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/routing/soft.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct ExpertMass {  // probs of a token; padding gives nothing to any slot
  static constexpr bool one_level = true;
  ConstIntVector<B> mask;
  Index slots;
  Matrix<B> combine, probs;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    if (mask && mask[t] == 0) {
      for (Index c = 0; c < combine.cols; ++c) combine(t, c) = 0;
    }
    for (Index e = 0; e < probs.cols; ++e) {
      T sum = 0;
      for (Index p = 0; p < slots; ++p) sum += combine(t, e * slots + p);
      probs(t, e) = sum;
    }
  }
};
template <Backend B>
struct ExpertMassBackward {
  ConstMatrix<B> d_probs;
  Index slots;
  Matrix<B> d_combine;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    T* to = d_combine.row(t);
    for (Index e = 0; e < d_probs.cols; ++e, to += slots) {
      const T add = d_probs(t, e);
      row_map<half_strip>(slots, to, [=](Index p) { return to[p] + add; });
    }
  }
};
}  // namespace detail

/// Soft routing: the inputs of a slot are the tokens of its group, weighted by a softmax of the logits over those
/// tokens; a token's result is the mean of all slots' results, weighted by a softmax over all E * P slots. Differentiable
/// everywhere; nothing is dropped, and no loss is needed for balance. A masked token gives to no slot and gets zeros.
///
/// `noise` is the standard deviation of Gaussian noise on the logits in training (not divided by E, unlike the
/// sparse routers'). P is the layer's capacity: FixedCapacity{P}, or CapacityFactor with shape.group;
/// V-MoE's is CapacityFactor{.factor = 1, .rounding = Rounding::half_even}.
/// Source: Puigcerver et al., "From Sparse to Soft Mixtures of Experts", ICLR 2024; V-MoE,
/// `vmoe/projects/soft_moe/router.py`.
struct SoftRouter {
  template <Backend B>
  using Routing = SoftRouting<B>;
  using GateType = SlotGate;

  double noise = 0;
  SlotGate gate{};

  Index choices(Index /*experts*/) const noexcept { return 1; }
  Index assignments(const RoutingShape& shape) const noexcept {
    return shape.tokens * shape.experts;
  }
  /// @throws config_error unless 0 <= noise <= 1e30, as GaussianNoise
  void check(Index /*experts*/) const {
    if (!GaussianNoise{.std = noise}.valid())
      throw_config("moxie::SoftRouter: noise is ", noise, ", expected 0 to 1e30");
  }

  template <Backend B>
  void route(B& b, const Context<B>& ctx, SoftRouting<B>& r) const {
    if (noise > 0 && ctx.mode == Mode::train)
      GaussianNoise{.std = noise, .per_expert = false}.add(b, ctx, ConstMatrix<B>(r.logits),
                                                           r.logits);
    softmax_tokens(b, ConstMatrix<B>(r.logits), ctx.mask, r.shape.group, r.dispatch);
    softmax_rows(b, ConstMatrix<B>(r.logits), r.combine);
    b.for_each(r.shape.tokens, detail::ExpertMass<B>{ctx.mask, r.slots(), r.combine, r.probs});
  }
  /// Adds d(probs) to d(combine) on the way.
  template <Backend B>
  void route_backward(B& b, const Context<B>&, const SoftRouting<B>& r,
                      RoutingGradients<SoftRouting<B>>& g) const {
    b.for_each(r.shape.tokens, detail::ExpertMassBackward<B>{g.probs, r.slots(), g.combine});
    softmax_rows_backward(b, ConstMatrix<B>(r.combine), ConstMatrix<B>(g.combine), g.logits, true);
    softmax_tokens_backward(b, ConstMatrix<B>(r.dispatch), ConstMatrix<B>(g.dispatch),
                            r.shape.group, g.logits);
  }

  friend constexpr bool operator==(const SoftRouter&, const SoftRouter&) = default;
};

}  // namespace moxie
