// expects: moxie::MoeLayer: the expert must model moxie::Expert (expert/concept.hpp)
// expects: x.backward(b, p, state, rows, rows, out, tape,
#include "moxie/backend/cpu.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"

using namespace moxie;

/// Adds nothing: y = 0.
struct Nothing {
  template <Backend B>
  struct State {};
  template <Backend B>
  struct Tape {};

  Index output_width(Index width) const { return width; }
  template <Backend B>
  void declare(const Scope<B>&, const ExpertShape&, State<B>&) const {}
  template <Backend B>
  void bind(B&, Arena<B>&, const Parameters<B>&, const State<B>&, Index, Tape<B>&) const {}
  template <Backend B>
  void forward(B& b, const Parameters<B>&, const State<B>&, const Rows<B>&, Matrix<B> out, Tape<B>&,
               const Pass<B>&) const {
    b.fill(Vector<B>(out.data, out.size()), 0);
  }
#ifndef MOXIE_FAIL
  template <Backend B>
  void backward(B& b, const Parameters<B>&, const State<B>&, const Rows<B>&, const Rows<B>&,
                Matrix<B> dx, Tape<B>&, Gradients) const {
    b.fill(Vector<B>(dx.data, dx.size()), 0);
  }
#endif
};

int main() {
  CpuBackend<float> cpu;
  const MoeLayer layer{cpu, {.width = 4, .experts = 2}, TopKRouter{.k = 1}, Dropless{}, Nothing{}};
  return layer.input_width() == 4 ? 0 : 1;
}
