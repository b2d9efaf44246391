#pragma once

#include "moxie/core/error.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"
#include "moxie/router/constant_weights.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct UniformRow {
  static constexpr bool one_level = true;
  ConstIntVector<B> mask;
  Index first_token, experts;
  IntMatrix<B> choice;

  MOXIE_HD void operator()(Index t) const {
    const bool padding = mask && mask[t] == 0;
    for (Index k = 0; k < choice.cols; ++k) {
      const Index e = ((first_token + t) * choice.cols + k) % experts;
      choice(t, k) = padding ? -1 : static_cast<std::int32_t>(e);
    }
  }
};
}  // namespace detail

/// Forced balance, for benchmarks: token t takes the experts (t k + j) mod E, j < k, with weights 1 / k, t its number
/// in the whole batch. Loads of consecutive unmasked tokens differ by at most 1. The layer's gate runs as ever, so that
/// the time is a real router's; only losses on the routing train it.
struct UniformRouter {
  template <Backend B>
  using Routing = SparseRouting<B>;

  Index k = 1;

  Index choices(Index /*experts*/) const noexcept { return k; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * k; }
  /// @throws config_error unless 1 <= k <= experts
  void check(Index experts) const {
    if (k < 1 || k > experts)
      throw_config("moxie::UniformRouter: k is ", k, ", expected 1 to ", experts,
                   " (the number of experts)");
  }

  template <Backend B>
  void score(B& b, const Context<B>&, SparseRouting<B>& r) const {
    detail::score_softmax(b, r);
  }
  template <Backend B>
  void select(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    b.for_each(r.shape.tokens,
               detail::UniformRow<B>{ctx.mask, ctx.first_token, r.shape.experts, r.choice});
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

  friend constexpr bool operator==(const UniformRouter&, const UniformRouter&) = default;
};

}  // namespace moxie
