#pragma once

#include <cstdint>

#include "moxie/dispatch/concept.hpp"
#include "moxie/ops/padded_rows.hpp"
#include "moxie/ops/routed_rows.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct PaddedOffset {
  static constexpr bool one_level = true;
  Index each;
  IntVector<B> offset;

  MOXIE_HD void operator()(Index e) const { offset[e] = static_cast<std::int32_t>(e * each); }
};
template <Backend B>
struct NoPaddedRow {
  static constexpr bool one_level = true;
  IntVector<B> row;

  MOXIE_HD void operator()(Index a) const { row[a] = -1; }
};
template <Backend B>
struct PlacePaddedRow {
  static constexpr bool one_level = true;
  PaddedRows<B> rows;
  IntVector<B> row;

  MOXIE_HD void operator()(Index q) const {
    const Index r = rows.of(q);
    if (r >= 0) row[rows.assignment[r]] = static_cast<std::int32_t>(q);
  }
};
}  // namespace detail

/// Each expert gets as many rows as it has slots, G min(C, S), copied, zero where nobody came: a
/// device multiplies them by one strided product of its library (Rows::each), at the price of the
/// copy and of the empty slots. For capacities that are nearly used; elsewhere, with Dropless above
/// all, GatherDispatcher does less.
/// Cost: E G min(C, S) rows instead of R.   Source: GShard, Lepikhin et al., 2020.
struct PaddedDispatcher {
  template <Backend B>
  struct Tape {
    Matrix<B> x, dy;      // [E * each, D], [E * each, O]
    IntVector<B> offset;  // [E + 1]
    IntVector<B> row;     // [A] padded row of each assignment, -1 = dropped
  };

  Index rows(const RoutingShape& shape) const noexcept { return shape.experts * each(shape); }
  template <Backend B>
  void bind(B&, Arena<B>& arena, const RoutingShape& shape, Index width, Index output_width,
            Tape<B>& tape) const {
    using T = typename B::Scalar;
    const Index listed = shape.tokens * shape.choices;
    tape.offset = arena.template kept<std::int32_t>(shape.experts + 1);
    tape.row =
        arena.template kept<std::int32_t>(listed < shape.assignments ? shape.assignments : listed);
    tape.x = arena.template saved<T>(rows(shape), width);
    if (arena.wants_input()) tape.dy = arena.template scratch<T>(rows(shape), output_width);
  }
  template <Backend B>
  Rows<B> dispatch(B& b, const SparseRouting<B>& r, ConstMatrix<B> x, Tape<B>& tape) const {
    const Index n = rows(r.shape);
    b.for_each(r.shape.experts + 1, detail::PaddedOffset<B>{each(r.shape), tape.offset});
    b.for_each(r.choice.size(), detail::NoPaddedRow<B>{tape.row});
    b.for_each(n, detail::PlacePaddedRow<B>{padded(r, nullptr), tape.row});
    return copied(b, r, nullptr, x, tape.x, tape);
  }
  template <Backend B>
  void combine(B& b, const SparseRouting<B>& r, ConstMatrix<B> rows, Matrix<B> y,
               Tape<B>& tape) const {
    combine_rows(b, lists(r, tape, r.weight.data), rows, y);
  }
  template <Backend B>
  Rows<B> combine_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> rows, ConstMatrix<B> dy,
                           RoutingGradients<SparseRouting<B>>& g, Tape<B>& tape) const {
    combine_rows_backward(b, lists(r, tape, nullptr), rows, dy, g.weight.data);
    return copied(b, r, r.weight.data, dy, tape.dy, tape);
  }
  template <Backend B>
  void dispatch_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> d_rows, Matrix<B> dx,
                         RoutingGradients<SparseRouting<B>>&, Tape<B>& tape) const {
    if (dx) combine_rows(b, lists(r, tape, nullptr), d_rows, dx);
  }

  friend constexpr bool operator==(const PaddedDispatcher&, const PaddedDispatcher&) = default;

 private:
  /// Slots past S can never be taken: the experts of a token are distinct.
  static Index each(const RoutingShape& shape) noexcept {
    return shape.groups() * (shape.capacity < shape.group ? shape.capacity : shape.group);
  }
  template <Backend B>
  static PaddedRows<B> padded(const SparseRouting<B>& r, const typename B::Scalar* weight) {
    return {r.offset, each(r.shape), r.token, r.assignment, weight};
  }
  template <Backend B>
  Rows<B> copied(B& b, const SparseRouting<B>& r, const typename B::Scalar* weight,
                 ConstMatrix<B> from, Matrix<B> to, const Tape<B>& tape) const {
    const Index n = rows(r.shape);
    copy_padded_rows(b, padded(r, weight), from, to.top(n));
    return {to.top(n), {}, {}, tape.offset, n, each(r.shape)};
  }
  template <Backend B>
  static RowLists<B> lists(const SparseRouting<B>& r, const Tape<B>& tape,
                           const typename B::Scalar* weight) {
    return {r.first, r.choice.cols, tape.row.data, weight};
  }
};

}  // namespace moxie
