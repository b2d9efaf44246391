#pragma once

#include "moxie/core/parameters.hpp"

/// A Gate scores tokens: x [T, D] to logits [T, E]. It owns parameters; a router owns none.
///
/// Members:
///   template <Backend B> struct State;                   handles of its parameters
///   void declare(Scope<B>, Index width, Index experts, State<B>&) const;
///   void forward(B&, const Parameters<B>&, const State<B>&, x, logits) const;
///   void backward(B&, const Parameters<B>&, const State<B>&, x, d_logits, dx, bool weights) const;
///                                                        dx += (empty: not computed); gradients += if `weights`
/// Law: the gradient agrees with central differences.
namespace moxie {

template <class G, class B>
concept Gate = Backend<B> && requires(const G& g, B& b, Scope<B> scope, Parameters<B>& p,
                                      typename G::template State<B>& state, Index n,
                                      ConstMatrix<B> x, Matrix<B> out, bool weights) {
  g.declare(scope, n, n, state);
  g.forward(b, p, state, x, out);
  g.backward(b, p, state, x, x, out, weights);
};

}  // namespace moxie
