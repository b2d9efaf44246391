#pragma once

#include "moxie/dispatch/concept.hpp"

namespace moxie {

namespace detail {
/// Entry (token t, expert e, slot c) of the dispatch tensor D, 0 or 1, and of the combine tensor W, read off the
/// lists; the assignment that it comes from.
template <Backend B>
struct DenseEntry {
  SparseRouting<B> r;

  MOXIE_HD Index assignment(Index t, Index e, Index c) const {
    for (Index a = r.begin(t); a < r.end(t); ++a)
      if (r.row.data[a] >= 0 && r.choice.data[a] == e && r.slot.data[a] == c) return a;
    return -1;
  }
};

template <Backend B>
struct EinsumDispatch {  // rows[e, g, c] = sum_s factor(s, e, c) x[s]
  static constexpr bool one_level = true;
  DenseEntry<B> entry;
  Index capacity;
  ConstMatrix<B> x;
  Matrix<B> rows;
  bool weighted;

  MOXIE_HD void operator()(Index q, Index d) const {
    using T = typename B::Scalar;
    const RoutingShape& shape = entry.r.shape;
    const Index c = q % capacity;
    const Index g = q / capacity % shape.groups();
    const Index e = q / capacity / shape.groups();
    T sum = 0;
    for (Index t = g * shape.group; t < (g + 1) * shape.group; ++t) {
      const Index a = entry.assignment(t, e, c);
      if (a >= 0) sum += (weighted ? entry.r.weight.data[a] : T(1)) * x(t, d);
    }
    rows(q, d) = sum;
  }
};
template <Backend B>
struct EinsumCombine {  // y[s] = sum_{e, c} factor(s, e, c) rows[e, g, c]
  static constexpr bool one_level = true;
  DenseEntry<B> entry;
  Index capacity;
  ConstMatrix<B> rows;
  Matrix<B> y;
  bool weighted;

  MOXIE_HD void operator()(Index t, Index d) const {
    using T = typename B::Scalar;
    const RoutingShape& shape = entry.r.shape;
    const Index g = t / shape.group;
    T sum = 0;
    for (Index e = 0; e < shape.experts; ++e)
      for (Index c = 0; c < capacity; ++c) {
        const Index a = entry.assignment(t, e, c);
        if (a < 0) continue;
        sum += (weighted ? entry.r.weight.data[a] : T(1)) *
               rows((e * shape.groups() + g) * capacity + c, d);
      }
    y(t, d) = sum;
  }
};
template <Backend B>
struct EinsumWeight {  // dW[s, e, c] = <dy[s], rows[e, g, c]>, at the assignments
  static constexpr bool one_level = true;
  SparseRouting<B> r;
  Index capacity;
  ConstMatrix<B> rows, dy;
  Matrix<B> d_weight;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    for (Index a = r.begin(t); a < r.end(t); ++a) {
      T sum = 0;
      if (r.row.data[a] >= 0) {
        const Index q =
            (r.choice.data[a] * r.shape.groups() + t / r.shape.group) * capacity + r.slot.data[a];
        for (Index d = 0; d < dy.cols; ++d) sum += dy(t, d) * rows(q, d);
      }
      d_weight.data[a] = sum;
    }
  }
};
template <Backend B>
struct EinsumOffset {
  static constexpr bool one_level = true;
  Index rows_of_expert;
  IntVector<B> offset;

  MOXIE_HD void operator()(Index e) const {
    offset[e] = static_cast<std::int32_t>(e * rows_of_expert);
  }
};
}  // namespace detail

/// The textbook form, with dense dispatch and combine tensors [T, E, C] evaluated entry by entry and every slot a
/// row, empty ones zero. Slow and obvious: the oracle of every other dispatcher. Rows of expert e are
/// (e * G + g) * C + c, as in the definition of the layer.   Cost: O(T E C K N).
struct EinsumDispatcher {
  template <Backend B>
  struct Tape {
    Matrix<B> x, dy;      // [E*G*C, D], [E*G*C, O]
    IntVector<B> offset;  // [E + 1]
  };

  Index rows(const RoutingShape& shape) const noexcept {
    return shape.experts * shape.groups() * capacity(shape);
  }
  template <Backend B>
  void bind(B&, Arena<B>& arena, const RoutingShape& shape, Index width, Index output_width,
            Tape<B>& tape) const {
    using T = typename B::Scalar;
    tape.x = arena.template saved<T>(rows(shape), width);
    if (arena.wants_input()) tape.dy = arena.template scratch<T>(rows(shape), output_width);
    tape.offset = arena.template kept<std::int32_t>(shape.experts + 1);
  }
  template <Backend B>
  Rows<B> dispatch(B& b, const SparseRouting<B>& r, ConstMatrix<B> x, Tape<B>& tape) const {
    const Index n = rows(r.shape);
    b.for_each(r.shape.experts + 1,
               detail::EinsumOffset<B>{r.shape.groups() * capacity(r.shape), tape.offset});
    b.for_each(n, x.cols,
               detail::EinsumDispatch<B>{{r}, capacity(r.shape), x, tape.x.top(n), false});
    return {tape.x.top(n), {}, {}, tape.offset, n, n / r.shape.experts};
  }
  template <Backend B>
  void combine(B& b, const SparseRouting<B>& r, ConstMatrix<B> rows, Matrix<B> y, Tape<B>&) const {
    b.for_each(y.rows, y.cols, detail::EinsumCombine<B>{{r}, capacity(r.shape), rows, y, true});
  }
  template <Backend B>
  Rows<B> combine_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> rows, ConstMatrix<B> dy,
                           RoutingGradients<SparseRouting<B>>& g, Tape<B>& tape) const {
    const Index n = this->rows(r.shape);
    b.for_each(dy.rows, detail::EinsumWeight<B>{r, capacity(r.shape), rows, dy, g.weight});
    b.for_each(n, dy.cols,
               detail::EinsumDispatch<B>{{r}, capacity(r.shape), dy, tape.dy.top(n), true});
    return {tape.dy.top(n), {}, {}, tape.offset, n, n / r.shape.experts};
  }
  template <Backend B>
  void dispatch_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> d_rows, Matrix<B> dx,
                         RoutingGradients<SparseRouting<B>>&, Tape<B>&) const {
    if (!dx) return;
    b.for_each(dx.rows, dx.cols,
               detail::EinsumCombine<B>{{r}, capacity(r.shape), d_rows, dx, false});
  }

  friend constexpr bool operator==(const EinsumDispatcher&, const EinsumDispatcher&) = default;

 private:
  /// Slots past S can never be taken: the experts of a token are distinct.
  static Index capacity(const RoutingShape& shape) {
    return shape.capacity < shape.group ? shape.capacity : shape.group;
  }
};

/// A router whose layer uses another dispatcher than GatherDispatcher.
template <class D, class R>
struct WithDispatcher : R {
  using DispatcherType = D;
  D dispatcher{};

  WithDispatcher() = default;
  constexpr WithDispatcher(D chosen, R base) : R(base), dispatcher(chosen) {}
  friend constexpr bool operator==(const WithDispatcher&, const WithDispatcher&) = default;
};
template <class D, class R>
WithDispatcher(D, R) -> WithDispatcher<D, R>;

}  // namespace moxie
