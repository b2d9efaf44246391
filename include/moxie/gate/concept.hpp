#pragma once

#include "moxie/core/parameters.hpp"
#include "moxie/routing/pass.hpp"

/// A Gate scores tokens: x [T, D] to logits [T, E] ([T, E*P] for a soft router). It owns parameters; a router owns none.
///
/// Members:
///   template <Backend B> struct State;                   handles of its parameters, lives with the layer
///   template <Backend B> struct Tape;                    memory of one pass
///   void declare(const Scope<B>&, const GateShape&, State<B>&) const;
///   void bind(B&, Arena<B>&, const GateShape&, Index tokens, Tape<B>&) const;
///   void forward(B&, const Context<B>&, const Parameters<B>&, const State<B>&, x, logits, Tape<B>&) const;
///   void backward(B&, const Context<B>&, const Parameters<B>&, const State<B>&, x, d_logits, dx, bool weights,
///                 Tape<B>&) const;                       dx += (empty: not computed); gradients += if `weights`
/// Scratch taken in `bind` is a gate's own for one call of forward and one of backward.
/// Law: the gradient agrees with central differences.
namespace moxie {

struct GateShape {
  Index width = 0;    ///< D
  Index experts = 0;  ///< E
  Index slots = 1;    ///< P of a soft router, else 1

  Index columns() const noexcept { return experts * slots; }
};

template <class G, class B>
concept Gate = Backend<B> &&
    requires(const G& g, B& b, Arena<B>& arena, const Scope<B>& scope, const Context<B>& ctx,
             const GateShape& shape, const Parameters<B>& p, typename G::template State<B>& state,
             typename G::template Tape<B>& tape, Index n, ConstMatrix<B> x, Matrix<B> out,
             bool weights) {
  g.declare(scope, shape, state);
  g.bind(b, arena, shape, n, tape);
  g.forward(b, ctx, p, state, x, out, tape);
  g.backward(b, ctx, p, state, x, x, out, weights, tape);
};

}  // namespace moxie
