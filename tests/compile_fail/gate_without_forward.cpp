// expects: moxie::MoeLayer: the gate must model moxie::Gate (gate/concept.hpp)
// expects: g.forward(b, ctx, p, state, x, out, tape)
#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"

using namespace moxie;

/// All logits are 0.
struct FlatGate {
  template <Backend B>
  struct State {};
  template <Backend B>
  struct Tape {};

  template <Backend B>
  void declare(const Scope<B>&, const GateShape&, State<B>&) const {}
  template <Backend B>
  void bind(B&, Arena<B>&, const GateShape&, Index, Tape<B>&) const {}
#ifndef MOXIE_FAIL
  template <Backend B>
  void forward(B& b, const Context<B>&, const Parameters<B>&, const State<B>&, ConstMatrix<B>,
               Matrix<B> logits, Tape<B>&) const {
    b.fill(Vector<B>(logits.data, logits.size()), 0);
  }
#endif
  template <Backend B>
  void backward(B&, const Context<B>&, const Parameters<B>&, const State<B>&, ConstMatrix<B>,
                ConstMatrix<B>, Matrix<B>, bool, Tape<B>&) const {}
};

int main() {
  CpuBackend<float> cpu;
  const MoeLayer layer{cpu,
                       {.width = 4, .experts = 2},
                       WithGate{FlatGate{}, TopKRouter{.k = 1}},
                       Dropless{},
                       FeedForward<Gelu>{.hidden = 8}};
  return layer.input_width() == 4 ? 0 : 1;
}
