#pragma once

#include <cmath>
#include <optional>

#include "../layer_with_memory.hpp"
#include "loops/layer_loop.hpp"
#include "measure.hpp"
#include "moxie/nn/mlp.hpp"

namespace bench {

/// A MoE layer whose tokens have the logits of the case, and its routing alone.
struct LayerFixture {
  std::vector<float> logits;
  moxie::Scope<B> scope;
  LayerWithMemory moe;
  std::unique_ptr<RoutingAlone> routing;
  RoutingFacts facts;
  double flops = 0;  ///< of a forward
  std::optional<double> routing_share;

  LayerFixture(const Case& c, const Setup& setup)
      : logits(make_logits(c.logits, setup.options, c.tokens, c.experts)),
        scope(moxie::root(setup.backend)),
        moe(scope, moxie::make_layer(scope, config_of(c, setup.options), setup.registry),
            make_input(logits, c.experts, setup.options.width)),
        routing(make_routing_alone(of_layer(c), setup)) {
    set_gates(*scope.parameters, c.experts);
    facts = facts_of(*routing, logits, setup.backend);
    flops = forward_flops(setup.options);
  }
  void run(bool and_backward) { moe.run(and_backward); }
  /// Gate, router and slots; of a backward, their gradients too.
  void route(bool and_backward) {
    routing->gate(moe.input());
    routing->route();
    if (!and_backward) return;
    routing->route_backward();
    routing->gate_backward(moe.input(), moe.d_input());
  }

 private:
  static Case of_layer(Case c) {
    if (c.is_loop()) c.router = "softmax_token_choice";
    return c;
  }
  double forward_flops(const Options& o) const {
    const auto count = [](const auto... n) { return 2.0 * (static_cast<double>(n) * ...); };
    const moxie::RoutingShape& s = routing->shape();
    const Index slots = routing->mixes() ? s.capacity : 1;
    const double gate = routing->has_gate() ? count(s.tokens, o.width, s.experts * slots) : 0;
    const double mixing = routing->mixes() ? 2 * count(s.tokens, s.experts * slots, o.width) : 0;
    return gate + mixing + 2 * count(facts.rows, o.width, o.hidden);
  }
};

inline void run_layer(benchmark::State& state, const std::string& name, const Case& c,
                      const Setup& setup) {
  LayerFixture& f = fixture<LayerFixture>(name, c, setup);
  for (auto _ : state) f.run(c.backward);
  if (!f.routing_share)
    f.routing_share = share_of_time([&] { f.run(c.backward); }, [&] { f.route(c.backward); });
  count_tokens(state, c.tokens);
  count_flops(state, f.flops, c.backward);
  count_facts(state, f.facts, c.tokens);
  state.counters["routing_share"] = *f.routing_share;
}

/// One perceptron of hidden width K H: the work of K rows of experts a token. The dense network of equal active FLOPs of a
/// layer that computes as many (rows_per_token), less its gate.
struct DenseFixture {
  moxie::Scope<B> scope;
  LayerWithMemory dense;

  DenseFixture(const Case& c, const Setup& setup)
      : scope(moxie::root(setup.backend)),
        dense(scope,
              moxie::Mlp<B>(scope, setup.options.width, setup.options.k * setup.options.hidden,
                            setup.options.width),
              normal_numbers(c.tokens * setup.options.width, 2)) {}
  void run(bool and_backward) { dense.run(and_backward); }
};

inline void run_dense(benchmark::State& state, const std::string& name, const Case& c,
                      const Setup& setup) {
  DenseFixture& f = fixture<DenseFixture>(name, c, setup);
  for (auto _ : state) f.run(c.backward);
  const Options& o = setup.options;
  count_tokens(state, c.tokens);
  count_rows(state, static_cast<double>(o.k * c.tokens), c.tokens);
  count_flops(state, 4.0 * static_cast<double>(c.tokens * o.width * o.k * o.hidden), c.backward);
}

/// The layer as a loop over tokens or experts, checked against the library's.
struct LoopFixture {
  LayerFixture reference;
  std::unique_ptr<LayerLoop> loop;
  std::vector<float> y, dx;

  LoopFixture(const Case& c, const Setup& setup)
      : reference(c, setup), y(reference.moe.y.size()), dx(reference.moe.dx.size()) {
    const Options& o = setup.options;
    LoopProblem p{.tokens = c.tokens,
                  .group = o.group,
                  .width = o.width,
                  .hidden = o.hidden,
                  .experts = c.experts,
                  .choices = o.k,
                  .capacity = reference.routing->shape().capacity,
                  .x = reference.moe.x.data(),
                  .gate = values("Router/kernel"),
                  .kernel_0 = values("Dense_0/kernel"),
                  .bias_0 = values("Dense_0/bias"),
                  .kernel_1 = values("Dense_1/kernel"),
                  .bias_1 = values("Dense_1/bias")};
    loop =
        c.router == "naive_loop" ? make_naive_loop(p, setup.pool) : make_eigen_loop(p, setup.pool);
    check();
  }
  void run(bool and_backward) {
    loop->forward(y.data());
    if (and_backward) loop->backward(reference.moe.dy.data(), dx.data());
  }

 private:
  moxie::Parameters<B>& parameters() const { return *reference.scope.parameters; }
  const moxie::ParameterEntry& entry(std::string_view name) const {
    for (const moxie::ParameterEntry& e : parameters().entries())
      if (e.name.ends_with(name)) return e;
    moxie::throw_config("LoopFixture: the layer has no parameter '", name, "'");
  }
  const float* values(std::string_view name) const {
    return parameters().values().data + entry(name).offset;
  }
  /// @throws numeric_error unless both do the same work
  void check() {
    parameters().zero_gradients();
    reference.moe.run(true);
    run(true);
    compare("y", y.data(), reference.moe.y.data(), y.size());
    compare("dx", dx.data(), reference.moe.dx.data(), dx.size());
    const auto compare_gradient = [this](std::string_view name, const std::vector<float>& own) {
      compare(name, own.data(), parameters().gradients().data + entry(name).offset, own.size());
    };
    compare_gradient("Dense_0/kernel", loop->gradients.kernel_0);
    compare_gradient("Dense_0/bias", loop->gradients.bias_0);
    compare_gradient("Dense_1/kernel", loop->gradients.kernel_1);
    compare_gradient("Dense_1/bias", loop->gradients.bias_1);
    // Where one expert's probability is 1, the gate's gradient is what rounding leaves of sums that cancel: its errors are
    // measured by sums over the same tokens that do not.
    float scale = 0;
    for (const float g : loop->gradients.bias_1) scale = std::max(scale, std::abs(g));
    compare("Router/kernel", loop->gradients.gate.data(),
            parameters().gradients().data + entry("Router/kernel").offset,
            loop->gradients.gate.size(), scale);
  }
  /// Errors are measured by the largest number expected, or by `scale` if that is more.
  static void compare(std::string_view what, const float* own, const float* expected, std::size_t n,
                      float scale = 0) {
    float most = scale;
    float difference = 0;
    for (std::size_t i = 0; i < n; ++i) {
      most = std::max(most, std::abs(expected[i]));
      difference = std::max(difference, std::abs(own[i] - expected[i]));
    }
    if (!(difference <= 1e-3F * most))
      moxie::throw_numeric("the loop does other work than the layer: ", what, " differs by ",
                           difference, ", the largest is ", most);
  }
};

inline void run_loop(benchmark::State& state, const std::string& name, const Case& c,
                     const Setup& setup) {
  LoopFixture& f = fixture<LoopFixture>(name, c, setup);
  for (auto _ : state) f.run(c.backward);
  count_tokens(state, c.tokens);
  count_flops(state, f.reference.flops, c.backward);
  count_facts(state, f.reference.facts, c.tokens);
}

}  // namespace bench
