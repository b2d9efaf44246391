#pragma once

#include "moxie/core/error.hpp"
#include "moxie/gate/zero.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/constant_weights.hpp"

namespace moxie {

namespace detail {
/// K experts of a token, all sets and orders alike likely.
template <Backend B>
struct HashRow {
  static constexpr bool one_level = true;
  ConstIntVector<B> mask;
  Random random;
  Index first_token, period, experts;
  IntMatrix<B> choice;

  MOXIE_HD bool taken(Index t, Index before, Index e) const {
    for (Index k = 0; k < before; ++k)
      if (choice(t, k) == e) return true;
    return false;
  }
  MOXIE_HD void operator()(Index t) const {
    const bool padding = mask && mask[t] == 0;
    const Index number = period > 0 ? (first_token + t) % period : first_token + t;
    for (Index k = 0; k < choice.cols; ++k) {
      if (padding) {
        choice(t, k) = -1;
        continue;
      }
      const auto left = static_cast<double>(experts - k);
      auto rank = static_cast<Index>(random.uniform(static_cast<std::uint64_t>(number),
                                                    static_cast<std::uint64_t>(k)) *
                                     left);  // of the expert among those that are left
      Index e = 0;
      while (taken(t, k, e) || rank-- > 0) ++e;
      choice(t, k) = static_cast<std::int32_t>(e);
    }
  }
};
}  // namespace detail

/// A fixed random router: a hash of the token's place names its k experts, with weights 1 / k. Nothing is learned, and
/// its layer has no gate: what ablations compare with.
///
/// The place is the number of the token in the whole batch, or that modulo `period`: with the tokens of an image, equal
/// places of all images go to the same experts. Layers and seeds differ; steps and passes do not.
/// Source: after Roller et al., "Hash Layers For Large Sparse Models", NeurIPS 2021, who hash the token's word.
struct HashRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;
  using GateType = ZeroGate;

  Index k = 1;
  Index period = 0;  ///< 0: none
  std::uint64_t seed = 0;

  Index choices(Index /*experts*/) const noexcept { return k; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * k; }
  /// @throws config_error unless 1 <= k <= experts and period >= 0
  void check(Index experts) const {
    if (k < 1 || k > experts)
      throw_config("moxie::HashRouter: k is ", k, ", expected 1 to ", experts,
                   " (the number of experts)");
    if (period < 0)
      throw_config("moxie::HashRouter: period is ", period, ", expected >= 0 (0 = none)");
  }

  template <Backend B>
  void score(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::score_softmax(b, r);
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    const Random random{seed, 0, stream_id("hash router", static_cast<std::uint64_t>(ctx.layer))};
    b.for_each(r.shape.tokens, detail::HashRow<B>{ctx.mask, random, ctx.first_token, period,
                                                  r.shape.experts, r.choice});
  }
  template <Backend B>
  void weigh(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::weigh_equally(b, r);
  }
  template <Backend B>
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    score(b, ctx, r);
    select(b, ctx, r);
    weigh(b, ctx, r);
  }
  template <Backend B>
  void route_backward(B& b, const Context<B>&, const SparseRouting<B>& r,
                      RoutingGradients<SparseRouting<B>>& g) const {
    detail::score_softmax_backward(b, r, g);
  }

  friend constexpr bool operator==(const HashRouter&, const HashRouter&) = default;
};

}  // namespace moxie
