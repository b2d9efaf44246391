// Balancing by a bias of selection, without a loss.
#include "moxie/router/bias.hpp"

#include "conformance/kinds/kind.hpp"
#include "conformance/kinds/lists.hpp"
#include "moxie/router/sigmoid.hpp"

namespace moxie::conformance {
namespace {

/// The same scores in every one of `steps`; the library's state keeps and moves the bias.
struct BiasSteps {
  template <Backend B>
  static Json run(const Json& inputs, Ranking& ranking) {
    using Router = WithBias<SigmoidTopKRouter>;
    const Json& scores = inputs.at("scores");
    const Index experts = columns(scores);
    const Router router{BiasBalance{.rate = inputs.at("u").get<double>()},
                        SigmoidTopKRouter{.k = inputs.at("k").get<Index>()}};
    Routed<B, Router> routed(router, scores, length(scores));
    SparseFixture<B>& f = routed.f;
    B& b = routed.backend;
    f.set_mode(Mode::eval);
    f.set_probs(flat<double>(scores));

    const Scope<B> scope = root(b);
    BiasState<B> state;
    state.declare(scope, experts, router.bias_rate());
    scope.parameters->initialize(0);
    const Parameters<B>& p = *scope.parameters;
    const Memory<B> memory(b, state.scratch_bytes(b, f.shape()));
    const Scratch<B> scratch{memory.data(), static_cast<Index>(memory.bytes())};

    Json steps = Json::array();
    for (Index step = 0; step < inputs.at("steps").get<Index>(); ++step) {
      f.routing.bias = state.bias(p);
      const auto bias = host(b, f.routing.bias);
      router.select(b, f.context, f.routing);
      const auto expert = f.choices();
      std::vector<Index> count(at(experts));
      for (const std::int32_t e : expert) ++count[at(e)];
      state.count(b, f.routing, state.selections(p), scratch);
      p.after_step();
      steps.push_back({{"bias", list(bias)},
                       {"expert", nested(expert, {length(scores), router.k})},
                       {"count", list(count)},
                       {"bias_next", list(host(b, state.bias(p)))}});
      auto biased = f.probs();
      for (std::size_t i = 0; i < biased.size(); ++i) biased[i] += bias[i % at(experts)];
      ranking.rows(biased, experts);
    }
    return {{"steps", std::move(steps)}};
  }
};

}  // namespace

std::vector<Kind> bias_kinds() { return {make_kind<BiasSteps>("15_bias_balancing")}; }

}  // namespace moxie::conformance
