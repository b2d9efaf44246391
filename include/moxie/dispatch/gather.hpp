#pragma once

#include "moxie/dispatch/concept.hpp"
#include "moxie/ops/routed_rows.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct RowWeight {
  static constexpr bool one_level = true;
  ConstIntVector<B> assignment, offset;
  const typename B::Scalar* weight;
  Vector<B> row_weight;

  MOXIE_HD void operator()(Index r) const {
    if (r < offset[offset.size - 1]) row_weight[r] = weight[assignment[r]];
  }
};
}  // namespace detail

/// Dispatch and combine by index, in both directions of the map: no copy of the activations, no atomics, no padding.
struct GatherDispatcher {
  template <Backend B>
  struct Tape {
    Vector<B> row_weight;  // [R] weight of each row, for the rows of dy
  };

  Index rows(const RoutingShape& shape) const noexcept { return shape.rows; }
  template <Backend B>
  void bind(B&, Arena<B>& arena, const RoutingShape& shape, Index, Index, Tape<B>& tape) const {
    if (arena.wants_input())
      tape.row_weight = arena.template scratch<typename B::Scalar>(shape.rows);
  }
  template <Backend B>
  Rows<B> dispatch(B&, const SparseRouting<B>& r, ConstMatrix<B> x, Tape<B>&) const {
    return {x, r.token, {}, r.offset, r.shape.rows};
  }
  template <Backend B>
  void combine(B& b, const SparseRouting<B>& r, ConstMatrix<B> rows, Matrix<B> y, Tape<B>&) const {
    combine_rows(b, lists(r, r.weight.data), rows, y);
  }
  template <Backend B>
  Rows<B> combine_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> rows, ConstMatrix<B> dy,
                           RoutingGradients<SparseRouting<B>>& g, Tape<B>& tape) const {
    combine_rows_backward(b, lists(r, nullptr), rows, dy, g.weight.data);
    const Vector<B> scale = tape.row_weight.middle(0, r.shape.rows);
    b.for_each(r.shape.rows, detail::RowWeight<B>{r.assignment, r.offset, r.weight.data, scale});
    return {dy, r.token, scale, r.offset, r.shape.rows};
  }
  template <Backend B>
  void dispatch_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> d_rows, Matrix<B> dx,
                         RoutingGradients<SparseRouting<B>>&, Tape<B>&) const {
    if (!dx) return;
    combine_rows(b, lists(r, nullptr), d_rows, dx);
  }

  friend constexpr bool operator==(const GatherDispatcher&, const GatherDispatcher&) = default;

 private:
  template <Backend B>
  static RowLists<B> lists(const SparseRouting<B>& r, const typename B::Scalar* weight) {
    return {r.first, r.choice.cols, r.row.data, weight};
  }
};

}  // namespace moxie
