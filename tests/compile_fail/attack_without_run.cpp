// expects: attack.run(
#include "moxie/backend/cpu.hpp"
#include "moxie/nn/linear.hpp"
#include "moxie/robust/attack.hpp"
#include "moxie/robust/target.hpp"

using namespace moxie;

/// Changes nothing.
struct NoAttack {
  template <AttackTarget M>
  struct State {};
  template <AttackTarget M>
  void bind(Arena<typename M::BackendType>&, const M&, Index, State<M>&) const {}
#ifndef MOXIE_FAIL
  template <AttackTarget M, class B = typename M::BackendType>
  void run(M&, const AttackBatch<B>&, State<M>&, Matrix<B>, IntVector<B>) const {}
#endif
};

template <AttackTarget M, Attack<M> A>
int evaluate(const A&) {
  return 0;
}

int main() { return evaluate<LayerTarget<Linear<CpuBackend<float>>>>(NoAttack{}); }
