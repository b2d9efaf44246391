#pragma once

#include "moxie/dispatch/concept.hpp"
#include "moxie/ops/row_map.hpp"
#include "moxie/routing/soft.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct
    SlotOrder {  // row e*G*P + g*P + p of the experts is slot g*E*P + e*P + p of the products, and back
  static constexpr bool one_level = true;
  Index groups, experts, slots;
  IntVector<B> slot_of_row, row_of_slot;

  MOXIE_HD void operator()(Index row) const {
    const Index p = row % slots;
    const Index g = row / slots % groups;
    const Index e = row / slots / groups;
    const Index slot = (g * experts + e) * slots + p;
    slot_of_row[row] = static_cast<std::int32_t>(slot);
    row_of_slot[slot] = static_cast<std::int32_t>(row);
  }
};
template <Backend B>
struct SlotOffset {
  static constexpr bool one_level = true;
  Index rows_of_expert;
  IntVector<B> offset;

  MOXIE_HD void operator()(Index e) const {
    offset[e] = static_cast<std::int32_t>(e * rows_of_expert);
  }
};
template <Backend B>
struct RowsToSlots {
  static constexpr bool one_level = true;
  ConstMatrix<B> rows;
  ConstIntVector<B> row_of_slot;
  Matrix<B> slots;

  MOXIE_HD MOXIE_INLINE void operator()(Index slot) const {
    const auto* from = rows.row(row_of_slot[slot]);
    row_map(slots.cols, slots.row(slot), [=](Index c) { return from[c]; });
  }
};
}  // namespace detail

/// Dispatch and combine of soft routing, as products of each group's dense weights: slots_g = D_g^T x_g and
/// y_g = W_g out_g. Experts see the slots through an index, without a copy.
struct SoftDispatcher {
  template <Backend B>
  struct Tape {
    Matrix<B> slots, out;  // [G*E*P, D], [G*E*P, O], group by group
    Matrix<B> d_out, d_slots;
    IntVector<B> slot_of_row, row_of_slot, offset;  // [R], [R], [E + 1]
    ConstMatrix<B> x;
  };

  Index rows(const RoutingShape& shape) const noexcept { return shape.rows; }
  template <Backend B>
  void bind(B&, Arena<B>& arena, const RoutingShape& shape, Index width, Index output_width,
            Tape<B>& tape) const {
    using T = typename B::Scalar;
    tape.slots = arena.template saved<T>(shape.rows, width);
    tape.out = arena.template saved<T>(shape.rows, output_width);
    tape.slot_of_row = arena.template kept<std::int32_t>(shape.rows);
    tape.row_of_slot = arena.template kept<std::int32_t>(shape.rows);
    tape.offset = arena.template kept<std::int32_t>(shape.experts + 1);
    if (!arena.wants_input()) return;
    tape.d_out = arena.template scratch<T>(shape.rows, output_width);
    tape.d_slots = arena.template scratch<T>(shape.rows, width);
  }
  template <Backend B>
  Rows<B> dispatch(B& b, const SoftRouting<B>& r, ConstMatrix<B> x, Tape<B>& tape) const {
    const Index n = r.shape.rows;
    tape.x = x;
    b.for_each(n, detail::SlotOrder<B>{r.shape.groups(), r.shape.experts, r.slots(),
                                       tape.slot_of_row, tape.row_of_slot});
    b.for_each(r.shape.experts + 1,
               detail::SlotOffset<B>{r.shape.groups() * r.slots(), tape.offset});
    product(b, r, Op::transpose, ConstMatrix<B>(r.dispatch), x, tape.slots.top(n));
    return rows_of(r, tape.slots.top(n), tape);
  }
  template <Backend B>
  void combine(B& b, const SoftRouting<B>& r, ConstMatrix<B> rows, Matrix<B> y,
               Tape<B>& tape) const {
    const Matrix<B> out = tape.out.top(r.shape.rows);
    b.for_each(out.rows, detail::RowsToSlots<B>{rows, tape.row_of_slot, out});
    product(b, r, Op::none, ConstMatrix<B>(r.combine), ConstMatrix<B>(out), y);
  }
  template <Backend B>
  Rows<B> combine_backward(B& b, const SoftRouting<B>& r, ConstMatrix<B> /*rows*/,
                           ConstMatrix<B> dy, RoutingGradients<SoftRouting<B>>& g,
                           Tape<B>& tape) const {
    const Index n = r.shape.rows;
    outer(b, r, dy, ConstMatrix<B>(tape.out.top(n)), g.combine);
    product(b, r, Op::transpose, ConstMatrix<B>(r.combine), dy, tape.d_out.top(n));
    return rows_of(r, tape.d_out.top(n), tape);
  }
  /// Also overwrites d(dispatch).
  template <Backend B>
  void dispatch_backward(B& b, const SoftRouting<B>& r, ConstMatrix<B> d_rows, Matrix<B> dx,
                         RoutingGradients<SoftRouting<B>>& g, Tape<B>& tape) const {
    const Matrix<B> d_slots = tape.d_slots.top(r.shape.rows);
    b.for_each(d_slots.rows, detail::RowsToSlots<B>{d_rows, tape.row_of_slot, d_slots});
    outer(b, r, tape.x, ConstMatrix<B>(d_slots), g.dispatch);
    if (dx) product(b, r, Op::none, ConstMatrix<B>(r.dispatch), ConstMatrix<B>(d_slots), dx);
  }

  friend constexpr bool operator==(const SoftDispatcher&, const SoftDispatcher&) = default;

 private:
  template <Backend B>
  static Rows<B> rows_of(const SoftRouting<B>& r, Matrix<B> slots, const Tape<B>& tape) {
    return {slots, tape.slot_of_row.middle(0, r.shape.rows), {}, tape.offset, r.shape.rows};
  }
  /// `m` as one matrix of `rows` rows for each group.
  template <Backend B, class M>
  static auto groups(const SoftRouting<B>& r, M m) {
    const Index count = r.shape.groups();
    const Index rows = count > 0 ? m.rows / count : 0;
    return BatchView<std::remove_pointer_t<decltype(m.data)>, typename B::Space>{m.top(rows), count,
                                                                                 rows * m.stride};
  }
  /// out_g = op(weight_g) in_g
  template <Backend B>
  static void product(B& b, const SoftRouting<B>& r, Op op, ConstMatrix<B> weight,
                      ConstMatrix<B> in, Matrix<B> out) {
    if (r.shape.tokens == 0) return;  // no groups whose sizes could agree
    b.batched_gemm(op, Op::none, 1, groups(r, weight), groups(r, in), 0, groups(r, out));
  }
  /// out_g = a_g b_g^T
  template <Backend B>
  static void outer(B& b, const SoftRouting<B>& r, ConstMatrix<B> left, ConstMatrix<B> right,
                    Matrix<B> out) {
    if (r.shape.tokens == 0) return;
    b.batched_gemm(Op::none, Op::transpose, 1, groups(r, left), groups(r, right), 0,
                   groups(r, out));
  }
};

}  // namespace moxie
