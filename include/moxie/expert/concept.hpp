#pragma once

#include "moxie/core/parameters.hpp"
#include "moxie/routing/pass.hpp"

/// An Expert is what E copies of transform the rows that routing gave them.
///
/// Members:
///   template <Backend B> struct State;      handles of its parameters, lives with the layer
///   template <Backend B> struct Tape;       memory of one pass
///   Index output_width(Index width) const;  need not be the width of a token (class scores)
///   void declare(const Scope<B>&, const ExpertShape&, State<B>&) const;
///   void bind(B&, Arena<B>&, const Parameters<B>&, const State<B>&, Index rows, Tape<B>&) const;
///   void forward(B&, const Parameters<B>&, const State<B>&, const Rows<B>& in, Matrix<B> out, Tape<B>&,
///                const Pass<B>&) const;
///   void backward(B&, const Parameters<B>&, const State<B>&, const Rows<B>& in, const Rows<B>& dy,
///                 Matrix<B> dx, Tape<B>&, Gradients) const;
///                 dx[r] = gradient of row r (overwrites); gradients of parameters += if Gradients::all. dx overlaps
///                 neither in nor dy
///
/// Laws: rows of expert e depend on the parameters of e only; permuting rows inside an expert permutes results;
/// in.offset may start above 0 and experts may be empty; rows at or past offset[E] are neither read nor written.
namespace moxie {

struct ExpertShape {
  Index experts = 0;
  Index width = 0;
};

namespace detail {
/// @throws config_error for an output width below 0; 0 stands for the width of a token
inline void check_output(const char* who, Index output) {
  if (output < 0)
    throw_config(who, ": output is ", output, ", expected >= 0 (0 = the width of a token)");
}
}  // namespace detail

template <class X, class B>
concept Expert = Backend<B> &&
    requires(const X& x, B& b, Arena<B>& arena, const Scope<B>& scope, const Parameters<B>& p,
             typename X::template State<B>& state, typename X::template Tape<B>& tape,
             const Rows<B>& rows, Matrix<B> out, const Pass<B>& pass, Index n) {
  { x.output_width(n) } -> std::same_as<Index>;
  x.declare(scope, ExpertShape{}, state);
  x.bind(b, arena, p, state, n, tape);
  x.forward(b, p, state, rows, out, tape, pass);
  x.backward(b, p, state, rows, rows, out, tape, Gradients::all);
};

}  // namespace moxie
