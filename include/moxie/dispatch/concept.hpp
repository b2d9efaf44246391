#pragma once

#include "moxie/core/parameters.hpp"
#include "moxie/routing/tensors.hpp"

/// A Dispatcher moves tokens to rows of experts, and rows back to tokens. One overload per routing kind.
///
/// Members (Routing as SparseRouting):
///   template <Backend B> struct Tape;
///   void bind(B&, Arena<B>&, const RoutingShape&, Index width, Index output_width, Tape<B>&) const;
///   Index rows(const RoutingShape&) const;                        rows that dispatch can make
///   Rows<B> dispatch(B&, const Routing&, ConstMatrix<B> x, Tape<B>&) const;
///   void combine(B&, const Routing&, ConstMatrix<B> rows, Matrix<B> y, Tape<B>&) const;
///   Rows<B> combine_backward(B&, const Routing&, ConstMatrix<B> rows, ConstMatrix<B> dy,
///                            RoutingGradients<Routing>&, Tape<B>&) const;    overwrites d(weight)
///   void dispatch_backward(B&, const Routing&, ConstMatrix<B> d_rows, Matrix<B> dx, RoutingGradients<Routing>&,
///                          Tape<B>&) const;    dx may be empty: not computed. Soft: overwrites d(dispatch)
///
/// Laws: <dispatch(x), r> = <x, dispatch_backward(r)>; equal to the einsum oracle (einsum.hpp).
namespace moxie {

template <class D, class B, class Routing = SparseRouting<B>>
concept Dispatcher = Backend<B> &&
    requires(const D& d, B& b, Arena<B>& arena, const RoutingShape& shape, Index width,
             typename D::template Tape<B>& tape, const Routing& r, RoutingGradients<Routing>& g,
             ConstMatrix<B> x, Matrix<B> y) {
  d.bind(b, arena, shape, width, width, tape);
  { d.rows(shape) } -> std::same_as<Index>;
  { d.dispatch(b, r, x, tape) } -> std::same_as<Rows<B>>;
  d.combine(b, r, x, y, tape);
  { d.combine_backward(b, r, x, x, g, tape) } -> std::same_as<Rows<B>>;
  d.dispatch_backward(b, r, x, y, g, tape);
};

}  // namespace moxie
