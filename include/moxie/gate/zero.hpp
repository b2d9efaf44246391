#pragma once

#include "moxie/gate/concept.hpp"

namespace moxie {

/// All logits are 0: the gate of routers that look at nothing. No parameters.
struct ZeroGate {
  template <Backend B>
  struct State {};
  template <Backend B>
  struct Tape {};

  template <Backend B>
  void declare(const Scope<B>&, const GateShape&, State<B>&) const {}
  template <Backend B>
  void bind(B&, Arena<B>&, const GateShape&, Index, Tape<B>&) const {}
  template <Backend B>
  void forward(B& b, const Context<B>&, const Parameters<B>&, const State<B>&, ConstMatrix<B>,
               Matrix<B> logits, Tape<B>&) const {
    b.fill(Vector<B>(logits.data, logits.size()), typename B::Scalar(0));
  }
  template <Backend B>
  void backward(B&, const Context<B>&, const Parameters<B>&, const State<B>&, ConstMatrix<B>,
                ConstMatrix<B>, Matrix<B>, bool, Tape<B>&) const {}

  friend constexpr bool operator==(const ZeroGate&, const ZeroGate&) = default;
};

}  // namespace moxie
