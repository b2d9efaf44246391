#pragma once

#include <concepts>

#include "moxie/capacity/assign.hpp"
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
  bool with_dropped;  // else dropped ones become -1, too
  IntMatrix<B> choice;

  MOXIE_HD void operator()(Index t) const {
    const bool padding = mask && mask[t] == 0;
    for (Index k = 0; k < choice.cols; ++k) {
      const Index entry = k < given.cols && !padding ? given(t, k) : -1;
      const Index e = with_dropped ? routed_expert(entry) : entry;
      choice(t, k) = static_cast<std::int32_t>(e >= 0 && e < experts ? e : -1);
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
      const std::int32_t e = r.choice(t, k);
      choice(t, k) = e < 0 || r.row(t, k) >= 0 ? e : dropped_route(e);
      weight(t, k) = e < 0 ? typename B::Scalar(0) : r.weight(t, k);
    }
  }
};

/// r.choice from outside
template <Backend B>
void copy_given(B& b, const Context<B>& ctx, const Routes<B>& given, bool with_dropped,
                SparseRouting<B>& r) {
  b.for_each(r.shape.tokens,
             CopyGivenRow<B>{given.choice, ctx.mask, r.shape.experts, with_dropped, r.choice});
}

/// Scores as ever, choices (and perhaps weights) from outside, dropped ones among them.
template <Backend B, class R>
requires ComposedRouter<R, B>
void apply_given(B& b, const Context<B>& ctx, const R& router, const Routes<B>& given,
                 SparseRouting<B>& r) {
  router.score(b, ctx, r);
  if (given.rank >= 0) {
    if constexpr (RankingRouter<R, B>)
      rank_rows(b, router.ranked(b, ctx, r), ctx.mask, given.rank, r.choice);
  } else {
    copy_given(b, ctx, given, true, r);
  }
  router.weigh(b, ctx, r);
  using Weights = typename Routes<B>::Weights;
  if (given.weights == Weights::gate) return;
  b.for_each(
      r.shape.tokens,
      CopyGivenWeight<B>{
          r.choice, given.weights == Weights::given ? given.weight : ConstMatrix<B>{}, r.weight});
}

/// A capacity's priority without its overflow policy: what was recorded as dropped is not rerouted.
template <Capacity C>
struct PriorityOf {
  const C& capacity;

  Index slots(const CapacityQuery& q) const { return capacity.slots(q); }
  template <Backend B>
  requires HasPriority<C, B> std::size_t order_bytes(const B& b, Index tokens)
  const { return capacity.order_bytes(b, tokens); }
  template <Backend B>
  requires HasPriority<C, B>
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    capacity.order(b, ctx, r, order, scratch);
  }
};

/// Slots and rows of choices from outside, as many slots as they take: none for those that were dropped.
template <Backend B, Capacity C>
void assign_given(B& b, const Context<B>& ctx, const C& capacity, const Routes<B>& given,
                  const AssignMemory<B>& memory, SparseRouting<B>& r) {
  const bool marked = given.rank < 0;
  if (marked) copy_given(b, ctx, given, false, r);
  assign_slots(b, ctx, PriorityOf<C>{capacity}, r.shape.group, memory, r);
  if (marked) copy_given(b, ctx, given, true, r);
}

/// The rows that the routes may fill in a pass of shape `s`.
/// @throws shape_error or config_error if they do not fit it, or not into `room` rows
template <Backend B>
Index rows_of_given(const Routes<B>& given, const RoutingShape& s, Index room) {
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
  Index rows = s.tokens * columns;
  if constexpr (std::same_as<typename B::Space, HostSpace>) {  // on a device they count as "none"
    if (!by_rank) rows = 0;
    for (Index t = 0; !by_rank && t < s.tokens; ++t)
      for (Index k = 0; k < columns; ++k) {
        const Index entry = given.choice(t, k);
        const Index e = routed_expert(entry);
        if (e >= s.experts)
          throw_config("moxie::MoeLayer::forward: pass.routes: choice(", t, ", ", k, ") is ", entry,
                       ", expected an expert from 0 to ", s.experts - 1,
                       ", -1 for none, or -2 - expert for one that was dropped");
        rows += entry >= 0 ? 1 : 0;
        for (Index j = 0; j < k; ++j)
          if (e >= 0 && e == routed_expert(given.choice(t, j)))
            throw_config("moxie::MoeLayer::forward: pass.routes: token ", t, " has expert ", e,
                         " twice, expected distinct experts");
      }
  }
  if (rows > room)
    throw_shape("moxie::MoeLayer::forward: pass.routes may fill ", rows,
                " rows, the tape has room for ", room,
                ": use a capacity that holds them (Dropless in evaluation, say)");
  return rows;
}

}  // namespace moxie::detail
