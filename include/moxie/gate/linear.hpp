#pragma once

#include "moxie/gate/concept.hpp"

namespace moxie {

/// logits = x W, W [D, E], no bias; W starts LeCun normal.   Source: V-MoE, `vmoe/nn/routing.py`.
struct LinearGate {
  template <Backend B>
  struct State {
    typename Parameters<B>::Id kernel = 0;
  };
  template <Backend B>
  struct Tape {};

  template <Backend B>
  void declare(const Scope<B>& scope, const GateShape& shape, State<B>& state) const {
    state.kernel =
        (scope / "Router")
            .add("kernel", {shape.width, shape.columns()}, Initializer::lecun_normal(shape.width));
  }
  template <Backend B>
  void bind(B&, Arena<B>&, const GateShape&, Index, Tape<B>&) const {}
  template <Backend B>
  void forward(B& b, const Context<B>&, const Parameters<B>& p, const State<B>& state,
               ConstMatrix<B> x, Matrix<B> logits, Tape<B>&) const {
    b.gemm(Op::none, Op::none, 1, x, p.value(state.kernel), 0, logits);
  }
  template <Backend B>
  void backward(B& b, const Context<B>&, const Parameters<B>& p, const State<B>& state,
                ConstMatrix<B> x, ConstMatrix<B> d_logits, Matrix<B> dx, bool weights,
                Tape<B>&) const {
    if (weights) b.gemm(Op::transpose, Op::none, 1, x, d_logits, 1, p.gradient(state.kernel));
    if (dx) b.gemm(Op::none, Op::transpose, 1, d_logits, p.value(state.kernel), 1, dx);
  }

  friend constexpr bool operator==(const LinearGate&, const LinearGate&) = default;
};

}  // namespace moxie
