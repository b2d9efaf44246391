// expects: optimizer.update(parameters, range, state, learning_rate)
#include "moxie/backend/cpu.hpp"
#include "moxie/nn/linear.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "moxie/train/step.hpp"
#include "moxie/train/supervised.hpp"

using namespace moxie;

/// The state of one optimizer, and the rule of none.
struct Frozen {
  template <Backend B>
  struct State : Sgd::State<B> {
    State(const Frozen&, const Parameters<B>& p) : Sgd::State<B>(Sgd{}, p) {}
  };
#ifndef MOXIE_FAIL
  template <Backend B>
  void update(Parameters<B>&, const ParameterRange&, State<B>&, double) const {}
#endif
  friend bool operator==(const Frozen&, const Frozen&) = default;
};

using B = CpuBackend<float>;
using Train = train::Step<Linear<B>, Supervised, Frozen>;
int main() { return sizeof(Train*) > 0 ? 0 : 1; }
