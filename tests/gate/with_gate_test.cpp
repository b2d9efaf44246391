// A layer with another gate than LinearGate.
#include <doctest/doctest.h>

#include <vector>

#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/gate/linear.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "support/backends.hpp"

namespace with_gate_test {

using namespace moxie;
using B = CpuBackend<double>;

namespace {

/// A user's own: the logits of a LinearGate, divided by a temperature.
struct TemperedGate : LinearGate {
  double temperature = 1;

  template <Backend Own>
  void forward(Own& b, const Context<Own>&, const Parameters<Own>& p, const State<Own>& state,
               ConstMatrix<Own> x, Matrix<Own> logits, Tape<Own>&) const {
    b.gemm(Op::none, Op::none, 1 / temperature, x, p.value(state.kernel), 0, logits);
  }
  template <Backend Own>
  void backward(Own& b, const Context<Own>&, const Parameters<Own>& p, const State<Own>& state,
                ConstMatrix<Own> x, ConstMatrix<Own> d_logits, Matrix<Own> dx, bool weights,
                Tape<Own>&) const {
    if (weights)
      b.gemm(Op::transpose, Op::none, 1 / temperature, x, d_logits, 1, p.gradient(state.kernel));
    if (dx)
      b.gemm(Op::none, Op::transpose, 1 / temperature, d_logits, p.value(state.kernel), 1, dx);
  }
};
static_assert(Gate<LinearGate, B> && Gate<TemperedGate, B>);

TemperedGate tempered(double temperature) {
  TemperedGate gate;
  gate.temperature = temperature;
  return gate;
}

auto make_layer(B& cpu, double temperature) {
  return MoeLayer{cpu, MoeShape{.width = 4, .experts = 3, .seed = 5},
                  WithGate{tempered(temperature), TopKRouter{.k = 2}}, Dropless{},
                  FeedForward<Gelu>{.hidden = 5}};
}

}  // namespace

TEST_CASE("WithGate gives the layer the user's gate with its values") {
  B cpu;
  const auto warm = make_layer(cpu, 4);
  const auto cold = make_layer(cpu, 1);
  const std::vector<double> x{1, -2, 0.5, 3, 0.25, 1, -1, 2};
  std::vector<double> y(8);
  auto warm_tape = warm.make_tape(2);
  auto cold_tape = cold.make_tape(2);
  warm.forward({x.data(), 2, 4}, {y.data(), 2, 4}, warm_tape);
  cold.forward({x.data(), 2, 4}, {y.data(), 2, 4}, cold_tape);
  for (Index t = 0; t < 2; ++t)
    for (Index e = 0; e < 3; ++e)
      CHECK(4 * warm_tape->routing.logits(t, e) ==
            doctest::Approx(cold_tape->routing.logits(t, e)));
}

TEST_CASE("WithGate: gradients agree through the user's gate") {
  B cpu;
  const auto report = testing::check_gradients(make_layer(cpu, 2.5), 6);
  CHECK_MESSAGE(report.passed, report.message);
}

}  // namespace with_gate_test
