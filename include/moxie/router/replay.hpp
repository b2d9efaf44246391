#pragma once

#include "moxie/core/error.hpp"
#include "moxie/gate/zero.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"

namespace moxie {

namespace detail {
template <class B>
struct ReplayRow {
  static constexpr bool one_level = true;
  ConstIntMatrix<B> given;      // the rows of this pass
  ConstMatrix<B> given_weight;  // empty: 1
  ConstIntVector<B> mask;
  Index experts;
  IntMatrix<B> choice;
  Matrix<B> weight;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    const bool padding = mask && mask[t] == 0;
    for (Index k = 0; k < choice.cols; ++k) {
      const Index e = given(t, k);
      const bool valid = !padding && e >= 0 && e < experts;
      choice(t, k) = valid ? static_cast<std::int32_t>(e) : -1;
      weight(t, k) = !valid ? T(0) : given_weight ? given_weight(t, k) : T(1);
    }
  }
};
}  // namespace detail

/// Routes from outside, for every pass: row first_token + t of the views is what token t of a pass takes. The choices are
/// K columns, -1 for none, as which a recorded drop (dropped_route) counts; the experts of a token must be distinct and its
/// weights >= 0. Nothing is learned, and its layer has no gate. To replay single passes of a layer with a
/// router of its own, use Pass::routes.
///
/// The views lie in the backend's memory and must outlive the layer; their numbers may change between passes.
template <Backend B>
struct ReplayRouter {
  template <Backend Own>
  using Routing = SparseRouting<Own>;
  using GateType = ZeroGate;

  ConstIntMatrix<B> choice{};  ///< [rows, K]
  ConstMatrix<B> weight{};     ///< [rows, K]; empty: 1 for each choice

  Index choices(Index /*experts*/) const noexcept { return choice.cols; }
  Index assignments(const RoutingShape& shape) const noexcept { return shape.tokens * choice.cols; }
  /// @throws config_error unless there are 1 to `experts` columns of choices, and as many weights
  void check(Index experts) const {
    if (choice.cols < 1 || choice.cols > experts)
      throw_config("moxie::ReplayRouter: choice has ", choice.cols, " columns, expected 1 to ",
                   experts, " (the number of experts)");
    if (weight && (weight.rows != choice.rows || weight.cols != choice.cols))
      throw_config("moxie::ReplayRouter: weight is [", weight.rows, " x ", weight.cols,
                   "], expected [", choice.rows, " x ", choice.cols, "], one for each choice");
  }

  /// @throws shape_error where the routes have no row for a token of the pass; on a host config_error for an expert that
  /// does not exist (on a device it counts as "none")
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    const Index tokens = r.shape.tokens;
    if (ctx.first_token < 0 || ctx.first_token + tokens > choice.rows)
      throw_shape("moxie::ReplayRouter: the pass has tokens ", ctx.first_token, " to ",
                  ctx.first_token + tokens - 1, ", the routes have ", choice.rows, " rows");
    const ConstIntMatrix<B> given = choice.middle(ctx.first_token, tokens);
    if constexpr (std::same_as<typename B::Space, HostSpace>) {
      for (Index t = 0; t < tokens; ++t)
        for (Index k = 0; k < given.cols; ++k)
          if (const Index e = given(t, k); routed_expert(e) >= r.shape.experts)
            throw_config("moxie::ReplayRouter: choice(", ctx.first_token + t, ", ", k, ") is ", e,
                         ", expected an expert from 0 to ", r.shape.experts - 1,
                         ", or -1 for none");
    }
    detail::score_softmax(b, r);
    b.for_each(tokens,
               detail::ReplayRow<B>{given, weight ? weight.middle(ctx.first_token, tokens) : weight,
                                    ctx.mask, r.shape.experts, r.choice, r.weight});
  }
  void route_backward(B& b, const Context<B>&, const SparseRouting<B>& r,
                      RoutingGradients<SparseRouting<B>>& g) const {
    detail::score_softmax_backward(b, r, g);
  }

  /// The same memory, not the same numbers.
  friend bool operator==(const ReplayRouter& a, const ReplayRouter& b) {
    const auto same = [](const auto& v, const auto& w) {
      return v.data == w.data && v.rows == w.rows && v.cols == w.cols && v.stride == w.stride;
    };
    return same(a.choice, b.choice) && same(a.weight, b.weight);
  }
};

}  // namespace moxie
