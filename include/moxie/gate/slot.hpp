#pragma once

#include <cmath>

#include "moxie/gate/concept.hpp"
#include "moxie/ops/cosine_product.hpp"

namespace moxie {

/// The gate of soft routing: each slot has a direction mu, [D, E, P]; a token's logit for a slot is scale * the cosine of
/// token and direction, norms being sqrt(sum of squares + 1e-6). `scale` is learned and starts at 1; mu starts as an
/// isotropic Gaussian, of which only the direction matters. Neither name ends in "kernel", so neither decays by default.
///
/// `cosine = false`: logits = x mu, without a scale; the softmaxes then collapse to one-hot as D grows.
/// Source: Puigcerver et al., "From Sparse to Soft Mixtures of Experts", ICLR 2024; V-MoE,
/// `vmoe/projects/soft_moe/router.py`, whose names of parameters these are.
struct SlotGate {
  bool cosine = true;

  template <Backend B>
  struct State {
    typename Parameters<B>::Id mu = 0;
    typename Parameters<B>::Id scale = 0;
    Index width = 0;
    Index columns = 0;
  };
  template <Backend B>
  struct Tape {
    CosineProduct<B> product;
  };

  template <Backend B>
  void declare(const Scope<B>& scope, const GateShape& shape, State<B>& state) const {
    const Scope<B> own = scope / "Router";
    state.width = shape.width;
    state.columns = shape.columns();
    state.mu = own.add("mu", {shape.width, shape.experts, shape.slots},
                       Initializer::normal(1 / std::sqrt(static_cast<double>(shape.width))));
    if (cosine) state.scale = own.add("scale", {}, Initializer::constant(1));
  }
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const GateShape& shape, Index tokens, Tape<B>& tape) const {
    if (cosine) tape.product.bind(b, arena, tokens, shape.width, shape.columns());
  }
  template <Backend B>
  void forward(B& b, const Context<B>&, const Parameters<B>& p, const State<B>& state,
               ConstMatrix<B> x, Matrix<B> logits, Tape<B>& tape) const {
    if (cosine) {
      tape.product.forward(b, x, mu(p, state), p.vector(state.scale), epsilon, logits);
    } else {
      b.gemm(Op::none, Op::none, 1, x, mu(p, state), 0, logits);
    }
  }
  template <Backend B>
  void backward(B& b, const Context<B>&, const Parameters<B>& p, const State<B>& state,
                ConstMatrix<B> x, ConstMatrix<B> d_logits, Matrix<B> dx, bool weights,
                Tape<B>& tape) const {
    const Matrix<B> d_mu =
        weights ? Matrix<B>(p.gradient(state.mu).data, state.width, state.columns) : Matrix<B>();
    if (cosine) {
      tape.product.backward(b, x, mu(p, state), p.vector(state.scale), d_logits, dx, d_mu,
                            weights ? p.gradient_vector(state.scale) : Vector<B>());
      return;
    }
    if (d_mu) b.gemm(Op::transpose, Op::none, 1, x, d_logits, 1, d_mu);
    if (dx) b.gemm(Op::none, Op::transpose, 1, d_logits, mu(p, state), 1, dx);
  }

  friend constexpr bool operator==(const SlotGate&, const SlotGate&) = default;

 private:
  static constexpr double epsilon = 1e-6;

  template <Backend B>
  static ConstMatrix<B> mu(const Parameters<B>& p, const State<B>& state) {
    return {p.value(state.mu).data, state.width, state.columns};
  }
};

}  // namespace moxie
