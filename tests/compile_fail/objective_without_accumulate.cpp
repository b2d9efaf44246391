// expects: objective.accumulate(model, batch, state, pass)
#include "moxie/backend/cpu.hpp"
#include "moxie/nn/linear.hpp"
#include "moxie/train/objective.hpp"

using namespace moxie;

/// Leaves no gradients.
struct NoLoss {
  template <Layer M>
  struct State {};
  template <Layer M>
  void bind(Arena<typename M::BackendType>&, const M&, Index, State<M>&) const {}
#ifndef MOXIE_FAIL
  template <Layer M>
  void accumulate(const M&, const Batch<typename M::BackendType>&, State<M>&,
                  const Pass<typename M::BackendType>&) const {}
#endif
};

int main() {
  using B = CpuBackend<float>;
  B cpu;
  const Linear<B> model(root(cpu), 4, 2);
  model.parameters().initialize(0);
  OwnedObjectiveState<Linear<B>, NoLoss> state(NoLoss{}, model, 8);
  return model.input_width() == 4 ? 0 : 1;
}
