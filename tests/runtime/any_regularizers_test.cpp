#include "moxie/runtime/any_regularizers.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "device/allocations.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/regularizer_laws.hpp"
#include "support/backends.hpp"

namespace any_regularizers_test {

using namespace moxie;

namespace {

using B = CpuBackend<double>;
const MoeShape shape{.width = 4, .experts = 3, .group = 6, .seed = 3};
const WithNoise router{GaussianNoise{.std = 1.0}, TopKRouter{.k = 2}};
const FeedForward<Gelu> expert{.hidden = 4};
constexpr Index tokens = 12;

struct Outcome {  // what one forward and backward leave
  std::vector<double> dx, gradients;
};

/// A forward and a backward of `layer`, the same inputs each time; `look(tape)` after the forward.
template <class L, class Look>
Outcome run(B& backend, const L& layer, const Look& look) {
  std::vector<double> x;
  std::vector<double> dy;
  for (Index i = 0; i < tokens * 4; ++i) {
    x.push_back(std::sin(0.7 * static_cast<double>(i)));
    dy.push_back(0.01 * std::cos(1.1 * static_cast<double>(i)));
  }
  const test::Buffer<double, B> in(backend, x);
  const test::Buffer<double, B> d(backend, dy);
  const test::Buffer<double, B> y(backend, tokens * 4, 0);
  const test::Buffer<double, B> dx(backend, tokens * 4, 0);
  auto tape = layer.make_tape(tokens);
  layer.parameters().zero_gradients();
  layer.forward(in.view(tokens, 4), y.view(tokens, 4), *tape, {.seed = 5, .progress = 0.25});
  look(*tape);
  layer.backward(d.view(tokens, 4), dx.view(tokens, 4), *tape);
  return {dx.to_vector(),
          testing::detail::to_host(backend, ConstVector<B>(layer.parameters().gradients()))};
}

}  // namespace

TEST_CASE_TEMPLATE("AnyRegularizers obeys the Regularizer laws with each of the names", Back,
                   MOXIE_TEST_BACKENDS) {
  Back backend = test::make_backend<Back>();
  for (const std::string_view name : regularizer_names) {
    const testing::LawReport report = testing::check_regularizer_laws(
        backend, make_regularizers<Back>({{.name = std::string(name), .weight = 0.7}}),
        {.cases = 20});
    CHECK_MESSAGE(report.passed, name, ": ", report.message);
  }
}

TEST_CASE("a layer with AnyRegularizers does what one with the same regularizers does") {
  B backend;
  const Importance importance{.weight = 0.3};
  const NoisyLoad load{.weight = 0.2};
  const TopKBalance balance{.weight = 0.5};
  const WithDecay z{LossDecay::linear, RouterZ{.weight = 0.1}};
  std::vector<double> separate;
  const MoeLayer pack{backend, shape,   router, CapacityFactor{}, expert, importance,
                      load,    balance, z};
  const Outcome wanted = run(backend, pack, [&](const auto& tape) {
    for (const double v : pack.read_losses(tape)) separate.push_back(v);
  });

  const auto check = [&](const AnyRegularizers<B>& any) {
    const MoeLayer layer{backend, shape, router, CapacityFactor{}, expert, any};
    const Outcome got = run(backend, layer, [&](const auto& tape) {
      CHECK(testing::detail::to_host(backend, any.values(tape.sums[0])) == separate);
      CHECK(layer.read_losses(tape)[0] ==
            doctest::Approx(separate[0] + separate[1] + separate[2] + separate[3]).epsilon(1e-14));
    });
    CHECK(testing::detail::all_near(got.dx, wanted.dx, 1e-14));
    CHECK(testing::detail::all_near(got.gradients, wanted.gradients, 1e-14));
  };
  const AnyRegularizers<B> given{importance, load, balance, z};
  check(given);
  check(make_regularizers<B>({{.name = "importance", .weight = 0.3},
                              {.name = "load", .weight = 0.2},
                              {.name = "switch_topk", .weight = 0.5},
                              {.name = "router_z", .weight = 0.1, .decay = LossDecay::linear}}));
  const std::vector<std::string_view> names(given.names().begin(), given.names().end());
  CHECK(names == std::vector<std::string_view>{"importance", "load", "switch_topk", "router_z"});
}

TEST_CASE("a layer with every regularizer has the gradient of their sum and allocates nothing") {
  B backend;
  std::vector<RegularizerChoice> all;
  for (const std::string_view name : regularizer_names)
    all.push_back({.name = std::string(name), .weight = 0.3, .decay = LossDecay::linear});
  const MoeLayer layer{backend, shape, router, CapacityFactor{}, expert, make_regularizers<B>(all)};
  const test::Buffer<std::int32_t, B> pairs(backend, {0, 6, 1, 8, 2, 8, 5, -1, 4, 11});
  testing::GradientOptions<B> options{
      .pass = {.seed = 9, .progress = 0.25, .pairs = pairs.view(5, 2)}, .row_multiple = 6};
  options.allocations = [] { return static_cast<std::size_t>(test::allocations()); };
  const testing::GradientReport report = testing::check_gradients(layer, tokens, options);
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE("AnyRegularizers weighs its sum, skips what has no weight, and may be empty") {
  B backend;
  const auto losses = [&](const AnyRegularizers<B>& any) {
    std::vector<double> out;
    const MoeLayer layer{backend, shape, router, CapacityFactor{}, expert, any};
    (void)run(backend, layer, [&](const auto& tape) {
      out = testing::detail::to_host(backend, any.values(tape.sums[0]));
      out.push_back(layer.read_losses(tape)[0]);
    });
    return out;
  };
  AnyRegularizers<B> two{Importance{.weight = 0.3}, LocalEntropy{.weight = 0.5}};
  const std::vector<double> once = losses(two);
  CHECK(once[2] == once[0] + once[1]);
  two.weight = 2;
  CHECK(losses(two) == std::vector<double>{2 * once[0], 2 * once[1], 2 * once[2]});
  const AnyRegularizers<B> off{Importance{.weight = 0}, LocalEntropy{.weight = 0.5}};
  CHECK(losses(off) == std::vector<double>{0, once[1], once[1]});
  CHECK(losses(AnyRegularizers<B>()) == std::vector<double>{0});
}

TEST_CASE("the values of the parts outlive what later layers do, and the backward") {
  B backend;
  const auto scope = root(backend);
  const AnyRegularizers<B> any{Importance{.weight = 0.3}, LocalEntropy{.weight = 0.5}};
  const auto make = [&](const char* name) {
    return MoeLayer{scope / name, shape, router, CapacityFactor{}, expert, any};
  };
  const auto first = make("a");
  const auto second = make("b");
  scope.parameters->initialize(1);
  using L = std::remove_cv_t<decltype(first)>;
  for (const Gradients gradients : {Gradients::all, Gradients::none}) {
    typename L::Tape tapes[2];
    const auto bind = [&](Arena<B>& arena) {
      first.bind(arena, tokens, tapes[0]);
      second.bind(arena, tokens, tapes[1]);
    };
    Arena<B> measured(gradients);
    bind(measured);
    const Memory<B> memory(backend, measured.peak());
    Arena<B> arena(gradients, memory.data(), memory.bytes());
    bind(arena);
    std::vector<double> x;
    for (Index i = 0; i < tokens * 4; ++i) x.push_back(std::sin(0.7 * static_cast<double>(i)));
    std::vector<double> y(x.size());
    std::vector<double> dx(x.size());
    const auto values = [&] {
      return testing::detail::to_host(backend, any.values(tapes[0].sums[0]));
    };
    first.forward({x.data(), tokens, 4}, {y.data(), tokens, 4}, tapes[0]);
    const std::vector<double> wanted = values();
    REQUIRE(wanted[0] > 0);
    second.forward({y.data(), tokens, 4}, {dx.data(), tokens, 4}, tapes[1]);
    CHECK(values() == wanted);
    if (gradients == Gradients::none) continue;
    second.backward({x.data(), tokens, 4}, {dx.data(), tokens, 4}, tapes[1]);
    first.backward({x.data(), tokens, 4}, {dx.data(), tokens, 4}, tapes[0]);
    CHECK(values() == wanted);
  }
}

TEST_CASE("AnyRegularizers compare by their parts") {
  const AnyRegularizers<B> a{Importance{.weight = 0.3}, RouterZ{}};
  CHECK(a == AnyRegularizers<B>{Importance{.weight = 0.3}, RouterZ{}});
  CHECK(a == AnyRegularizers<B>{Importance{.weight = 0.3}}.with(RouterZ{}));
  CHECK_FALSE(a == AnyRegularizers<B>{Importance{.weight = 0.4}, RouterZ{}});
  CHECK_FALSE(a == AnyRegularizers<B>{RouterZ{}, Importance{.weight = 0.3}});
  CHECK_FALSE(a == AnyRegularizers<B>{Importance{.weight = 0.3}});
}

TEST_CASE("make_regularizers takes the weights that are given and says what is wrong") {
  CHECK(make_regularizers<B>({{.name = "router_z"}}) ==
        AnyRegularizers<B>{WithDecay{LossDecay::none, RouterZ{}}});
  CHECK_THROWS_WITH_AS(
      (void)make_regularizers<B>({{.name = "importence"}}),
      "moxie::make_regularizers: there is no regularizer 'importence' (did you mean "
      "'importance'?), "
      "expected one of: importance, load, switch_balance, switch_topk, router_z, local_entropy, "
      "global_entropy, threshold_entropy, mutual_information, tutel_importance, tutel_load, "
      "pairwise_consistency, pairwise_l2, pairwise_jsd, pairwise_jsd_topk",
      config_error);
  CHECK_THROWS_WITH_AS((void)make_regularizers<B>({{.name = "load"}, {.name = "load"}}),
                       "moxie::make_regularizers: 'load' is given twice", config_error);
  CHECK_THROWS_WITH_AS(
      (void)make_regularizers<B>(
          {{.name = "load", .weight = std::numeric_limits<double>::infinity()}}),
      "moxie::make_regularizers: the weight of 'load' is inf, expected a finite number",
      config_error);
}

TEST_CASE("make_regularizers takes the parts and the form of pairwise consistency") {
  const PairwiseConsistency released{
      .weight = 2, .diagonal = 0.3, .form = ConsistencyDiagonal::position, .tokens_per_image = 6};
  const auto named = make_regularizers<B>(
      {{.name = "pairwise_consistency", .decay = LossDecay::step, .consistency = released}});
  CHECK(named == AnyRegularizers<B>{WithDecay{LossDecay::step, released}});
  CHECK_FALSE(named ==
              AnyRegularizers<B>{WithDecay{LossDecay::step, PairwiseConsistency{.weight = 2}}});
  PairwiseConsistency lighter = released;
  lighter.weight = 0.5;
  CHECK(make_regularizers<B>(
            {{.name = "pairwise_consistency", .weight = 0.5, .consistency = released}}) ==
        AnyRegularizers<B>{WithDecay{LossDecay::none, lighter}});
}

TEST_CASE("make_regularizers knows what soft routing has") {
  using Soft = SoftRouting<B>;
  const auto some = make_regularizers<B, Soft>(
      {{.name = "importance"}, {.name = "local_entropy"}, {.name = "pairwise_consistency"}});
  static_assert(Regularizer<AnyRegularizers<B, Soft>, B, Soft>);
  static_assert(!Regularizer<AnyRegularizers<B, Soft>, B, SparseRouting<B>>);
  CHECK(some.size() == 3);
  CHECK_THROWS_WITH_AS(
      (void)(make_regularizers<B, Soft>({{.name = "load"}})),
      "moxie::make_regularizers: 'load' reads choices or noisy logits, which this router's kind of "
      "routing does not have",
      config_error);
}

}  // namespace any_regularizers_test
