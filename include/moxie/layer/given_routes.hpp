#pragma once

#include <concepts>

#include "moxie/capacity/concept.hpp"
#include "moxie/core/error.hpp"
#include "moxie/ops/top_k.hpp"
#include "moxie/router/concept.hpp"

namespace moxie::detail {

template <Backend B>
struct CopyGivenRow {  // choices from outside; columns that are not given become -1
  static constexpr bool one_level = true;
  ConstIntMatrix<B> given;
  ConstIntVector<B> mask;
  Index experts;
  IntMatrix<B> choice;

  MOXIE_HD void operator()(Index t) const {
    const bool padding = mask && mask[t] == 0;
    for (Index k = 0; k < choice.cols; ++k) {
      const bool valid = k < given.cols && !padding && given(t, k) < experts;
      choice(t, k) = valid ? given(t, k) : -1;
    }
  }
};
template <Backend B>
struct CopyGivenWeight {
  static constexpr bool one_level = true;
  ConstIntMatrix<B> choice;
  ConstMatrix<B> given;  // empty: 1
  Matrix<B> weight;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    for (Index k = 0; k < weight.cols; ++k) {
      if (choice(t, k) < 0) {
        weight(t, k) = 0;
      } else {
        weight(t, k) = given ? given(t, k) : T(1);
      }
    }
  }
};
template <Backend B>
struct RecordRow {
  static constexpr bool one_level = true;
  SparseRouting<B> r;
  IntMatrix<B> choice;
  Matrix<B> weight;

  MOXIE_HD void operator()(Index t) const {
    for (Index k = 0; k < choice.cols; ++k) {
      const bool kept = r.row(t, k) >= 0;
      choice(t, k) = kept ? r.choice(t, k) : -1;
      weight(t, k) = kept ? r.weight(t, k) : typename B::Scalar(0);
    }
  }
};

/// Scores as ever, choices (and perhaps weights) from outside.
template <Backend B, class R>
  requires ComposedRouter<R, B>
void apply_given(B& b, const Context<B>& ctx, const R& router, const Routes<B>& given,
                 SparseRouting<B>& r) {
  router.score(b, ctx, r);
  if (given.rank >= 0) {
    rank_rows(b, ConstMatrix<B>(r.noisy_logits), ctx.mask, given.rank, r.choice);
  } else {
    b.for_each(r.shape.tokens, CopyGivenRow<B>{given.choice, ctx.mask, r.shape.experts, r.choice});
  }
  router.weigh(b, ctx, r);
  using Weights = typename Routes<B>::Weights;
  if (given.weights == Weights::gate) return;
  b.for_each(r.shape.tokens,
             CopyGivenWeight<B>{
                 r.choice, given.weights == Weights::given ? given.weight : ConstMatrix<B>{},
                 r.weight});
}

/// A capacity's priority without its overflow policy: what was recorded as dropped is not rerouted.
template <Capacity C>
struct PriorityOf {
  const C& capacity;

  Index slots(const CapacityQuery& q) const { return capacity.slots(q); }
  template <Backend B>
    requires HasPriority<C, B>
  std::size_t order_bytes(const B& b, Index tokens) const {
    return capacity.order_bytes(b, tokens);
  }
  template <Backend B>
    requires HasPriority<C, B>
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    capacity.order(b, ctx, r, order, scratch);
  }
};

/// @throws shape_error or config_error if the routes do not fit a pass of shape `s`
template <Backend B>
void check_given(const Routes<B>& given, const RoutingShape& s, Index room) {
  const bool by_rank = given.rank >= 0;
  if (by_rank && given.rank >= s.experts)
    throw_config("moxie::MoeLayer::forward: pass.routes: rank is ", given.rank, ", expected 0 to ",
                 s.experts - 1, " (the experts less one)");
  if (!by_rank && (given.choice.rows != s.tokens || given.choice.cols > s.choices))
    throw_shape("moxie::MoeLayer::forward: pass.routes: choice is [", given.choice.rows, " x ",
                given.choice.cols, "], expected [", s.tokens, " x at most ", s.choices, "]");
  const Index columns = by_rank ? 1 : given.choice.cols;
  if (given.weights == Routes<B>::Weights::given &&
      (given.weight.rows != s.tokens || given.weight.cols != columns))
    throw_shape("moxie::MoeLayer::forward: pass.routes: weight is [", given.weight.rows, " x ",
                given.weight.cols, "], expected [", s.tokens, " x ", columns,
                "], one for each choice");
  const Index most = s.tokens * columns;
  if (most > room)
    throw_shape("moxie::MoeLayer::forward: pass.routes may fill ", most,
                " rows, the tape has room for ", room,
                ": use a capacity that holds them (Dropless in evaluation, say)");
  if constexpr (std::same_as<typename B::Space, HostSpace>) {  // on a device they count as "none"
    for (Index t = 0; t < given.choice.rows; ++t)
      for (Index k = 0; k < given.choice.cols; ++k)
        if (const Index e = given.choice(t, k); e < -1 || e >= s.experts)
          throw_config("moxie::MoeLayer::forward: pass.routes: choice(", t, ", ", k, ") is ", e,
                       ", expected an expert from 0 to ", s.experts - 1, ", or -1 for none");
    for (Index t = 0; t < given.choice.rows; ++t)
      for (Index k = 1; k < given.choice.cols; ++k)
        for (Index j = 0; j < k; ++j)
          if (given.choice(t, k) >= 0 && given.choice(t, k) == given.choice(t, j))
            throw_config("moxie::MoeLayer::forward: pass.routes: token ", t, " has expert ",
                         given.choice(t, k), " twice, expected distinct experts");
  }
}

}  // namespace moxie::detail
