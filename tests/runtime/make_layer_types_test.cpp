// A choice by name is the type that it stands for.
#include <doctest/doctest.h>

#include <tuple>

#include "moxie/runtime/make_layer.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "runtime/made_layers.hpp"

namespace make_layer_types_test {

using namespace moxie;
using namespace moxie::test;
using testing::SparseFixture;
using B = CpuBackend<double>;

TEST_CASE("a router made by name routes as the type that it stands for, to the bit") {
  B backend;
  const auto same = [&](const RouterConfig& c, const auto& router) {
    CAPTURE(c.name);
    const AnyRouter<B> made = made_router<B>(c);
    RoutingShape s{
        .tokens = 12, .experts = 4, .choices = router.choices(4), .group = 6, .capacity = 2};
    CHECK(made.choices(4) == s.choices);
    s.assignments = router.assignments(s);
    CHECK(made.assignments(s) == s.assignments);
    for (const Mode mode : {Mode::train, Mode::eval}) {
      const auto routed = [&](const auto& r) {
        SparseFixture<B> f(backend, s, routing_traits(r, backend, s));
        f.context.seed = 4;
        f.context.step = 9;
        f.context.layer = 2;
        f.set_mode(mode);
        f.set_logits(normals(48, 7));
        r.route(backend, f.context, f.routing);
        std::vector<double> weight = f.weights();
        std::vector<std::int32_t> choice = f.choices();
        if (f.routing.first) {
          const auto filled =
              static_cast<std::size_t>(testing::detail::to_host(backend, f.routing.first).back());
          weight.resize(filled);
          choice.resize(filled);
        }
        testing::detail::from_host(backend, f.gradients.weight,
                                   normals(f.gradients.weight.size(), 8));
        testing::detail::from_host(backend, f.gradients.probs, normals(48, 9));
        r.route_backward(backend, f.context, f.routing, f.gradients);
        return std::tuple{choice,          weight,       f.probs(),
                          f.noisy_probs(), f.d_logits(), f.routing.noise_std,
                          r.choices(4)};
      };
      CHECK(routed(made) == routed(router));
    }
  };
  constexpr auto clean = CombineSource::softmax_clean;
  constexpr auto plan = CombineSource::plan;
  same({.name = "softmax_token_choice"}, TopKRouter{.k = 1});
  same({.name = "softmax_token_choice",
        .k = 2,
        .renormalize = true,
        .noise = 1,
        .combine_source = clean},
       WithNoise{GaussianNoise{.std = 1},
                 TopKRouter{.k = 2, .renormalize = true, .combine_source = clean}});
  same({.name = "softmax_token_choice", .k = 2, .noise = 0.5, .noise_kind = "gaussian_absolute"},
       WithNoise{GaussianNoise{.std = 0.5, .per_expert = false}, TopKRouter{.k = 2}});
  same({.name = "softmax_token_choice", .k = 2, .noise = 0.5, .noise_kind = "gumbel"},
       WithNoise{GumbelNoise{.scale = 0.5}, TopKRouter{.k = 2}});
  same({.name = "sinkhorn_token_choice",
        .k = 2,
        .renormalize = true,
        .noise = 1,
        .combine_source = plan,
        .epsilon = 0.5,
        .iterations = 7,
        .tolerance = 1e-3,
        .plan_at_eval = false},
       WithNoise{GaussianNoise{.std = 1}, SinkhornTopKRouter{.k = 2,
                                                             .renormalize = true,
                                                             .epsilon = 0.5,
                                                             .iterations = 7,
                                                             .tolerance = 1e-3,
                                                             .plan_at_eval = false,
                                                             .combine_source = plan}});
  same({.name = "softmax_expert_choice", .noise = 1, .combine_source = clean},
       WithNoise{GaussianNoise{.std = 1}, ExpertChoiceRouter{.combine_source = clean}});
  same({.name = "sinkhorn_expert_choice", .combine_source = plan, .epsilon = 2, .iterations = 3},
       SinkhornExpertChoiceRouter{.epsilon = 2, .iterations = 3, .combine_source = plan});
  same({.name = "sparse_expert_choice", .iterations = 3, .fill_zero = false},
       SparseExpertChoiceRouter{.max_iterations = 3, .fill_zero = false});
  same({.name = "sparse_expert_choice", .learning_rate = 0.1, .quadratic = true},
       SparseExpertChoiceRouter{.learning_rate = 0.1, .quadratic = true});
  same({.name = "sparse_token_choice", .k = 2, .renormalize = true, .tolerance = 0.1},
       SparseTopKRouter{.k = 2, .renormalize = true, .tolerance = 0.1});
  same({.name = "sigmoid_token_choice", .k = 2, .expert_groups = 2, .top_groups = 1, .scale = 2.5},
       SigmoidTopKRouter{.k = 2, .expert_groups = 2, .top_groups = 1, .scale = 2.5});
  same({.name = "softmax_token_choice", .k = 2, .noise = 0.5, .blocks = 2, .block_rows = 3},
       WithBlocks{EnsembleBlocks{.members = 2, .rows = 3},
                  WithNoise{GaussianNoise{.std = 1}, TopKRouter{.k = 2}}});
  same({.name = "softmax_token_choice",
        .noise = 0.5,
        .noise_kind = "gaussian_absolute",
        .blocks = 4},
       WithBlocks{EnsembleBlocks{.members = 4},
                  WithNoise{GaussianNoise{.std = 0.5, .per_expert = false}, TopKRouter{}}});
  same({.name = "hash", .k = 3}, HashRouter{.k = 3});
  same({.name = "uniform", .k = 3}, UniformRouter{.k = 3});
}

TEST_CASE("a made layer equals the layer composed of its types, to the bit") {
  B backend;
  const MoeShape shape{.width = 5, .experts = 3, .group = 6, .seed = 7};
  const Pass<B> pass{.seed = 3, .step = 2};
  const auto same = [&](MoeConfig c, const AnyLayer<B>& composed) {
    c.shape = shape;
    CAPTURE(c.router.name);
    const auto made = made_layer(backend, c);
    REQUIRE(made.parameters().entries().size() == composed.parameters().entries().size());
    for (const Mode mode : {Mode::train, Mode::eval}) {
      Pass<B> in_mode = pass;
      in_mode.mode = mode;
      auto a = run(made, 12, in_mode);
      auto b = run(composed, 12, in_mode);
      double sum = 0;
      for (const double v : b.losses) sum += v;
      CHECK(a.losses == std::vector<double>{sum});
      a.losses = b.losses;
      CHECK(a == b);
    }
  };
  MoeConfig c = small_config("softmax_token_choice");
  c.router.k = 2;
  c.router.noise = 1;
  c.capacity = {.factor = 0.7, .eval_rule = "dropless", .priority = "bpr"};
  c.regularizers = {{.name = "importance", .weight = 0.3}, {.name = "load", .weight = 0.2}};
  same(c, MoeLayer{
              backend, shape, WithNoise{GaussianNoise{.std = 1}, TopKRouter{.k = 2}},
              WithPriority{BatchPriority{}, TrainEval{CapacityFactor{.factor = 0.7}, Dropless{}}},
              FeedForward<Gelu>{.hidden = 4}, Importance{.weight = 0.3}, NoisyLoad{.weight = 0.2}});

  c = small_config("sigmoid_token_choice");
  c.router.k = 2;
  c.router.bias_rate = 0.01;
  c.router.jitter = 0.1;
  c.capacity = {.slots = 3, .overflow = "next_choice"};
  c.expert.kind = "swiglu";
  same(c, MoeLayer{backend, shape,
                   WithGate{WithJitter{InputJitter{.epsilon = 0.1}, LinearGate{}},
                            WithBias{BiasBalance{.rate = 0.01}, SigmoidTopKRouter{.k = 2}}},
                   WithOverflow{NextChoice{}, FixedCapacity{3}}, SwiGLU{.hidden = 4}});

  c = small_config("softmax_expert_choice");
  c.router.gate = "cosine";
  c.capacity = {.rule = "floor", .factor = 1};
  c.expert.kind = "geglu";
  same(c, MoeLayer{backend, shape, WithGate{CosineGate{}, ExpertChoiceRouter{}},
                   CapacityFactor{.factor = 1, .rounding = Rounding::floor}, GEGLU{.hidden = 4}});

  c = small_config("soft");
  c.router.noise = 0.5;
  c.regularizers = {{.name = "importance", .weight = 0.3}};
  same(c, MoeLayer{backend, shape, SoftRouter{.noise = 0.5}, FixedCapacity{2},
                   FeedForward<Gelu>{.hidden = 4}, Importance{.weight = 0.3}});

  // Without a word on capacity: round(S / E), here 6 / 3.
  c.capacity = {};
  same(c, MoeLayer{backend, shape, SoftRouter{.noise = 0.5}, FixedCapacity{2},
                   FeedForward<Gelu>{.hidden = 4}, Importance{.weight = 0.3}});

  c = small_config("softmax_token_choice");
  c.capacity = {.factor = 0.7, .eval_factor = 0.4, .eval_priority = "bpr"};
  same(c, MoeLayer{backend, shape, TopKRouter{.k = 1},
                   TrainEval{CapacityFactor{.factor = 0.7},
                             WithPriority{BatchPriority{}, CapacityFactor{.factor = 0.4}}},
                   FeedForward<Gelu>{.hidden = 4}});
}

TEST_CASE("shared experts and a residual perceptron by name are WithShared and ResidualMoe") {
  B backend;
  const auto ran = [](const AnyLayer<B>& layer) {
    layer.parameters().initialize(3);
    return run(layer, 12, {.seed = 3, .step = 2});
  };
  MoeConfig c = small_config("softmax_token_choice");
  c.capacity.factor = 0.7;
  const auto composed = [&](const auto& around) {
    const Scope<B> scope = root(backend);
    MoeLayer mixture{scope, c.shape, TopKRouter{.k = 1}, CapacityFactor{.factor = 0.7},
                     FeedForward<Gelu>{.hidden = 4}};
    auto expected = ran(AnyLayer<B>(around(scope, std::move(mixture))));
    expected.losses = {0};  // a made layer has their sum
    return expected;
  };
  const auto made = [&] { return ran(made_layer(backend, c)); };
  const auto shared = [&](Index hidden) {
    return composed([&](const Scope<B>& scope, auto mixture) {
      return WithShared{Mlp<B>(scope / "Shared", 5, hidden, 5), std::move(mixture)};
    });
  };
  c.shared = {.number = 2, .hidden = 3};
  CHECK(made() == shared(6));
  c.shared = {.number = 2};
  CHECK(made() == shared(8));
  c.shared = {};
  c.residual = true;
  CHECK(made() == composed([&](const Scope<B>& scope, auto mixture) {
          return ResidualMoe{scope, Mlp<B>(scope / "Residual", 5, 4, 5), std::move(mixture)};
        }));
  const AnyLayer<B> residual = made_layer(backend, c);
  CHECK(residual.moe_layers() == 1);
  std::vector<std::string> names;
  for (const ParameterEntry& e : residual.parameters().entries())
    if (e.name.starts_with("coefficient/") || e.name.starts_with("Residual/"))
      names.push_back(e.name);
  CHECK(names.size() == 6);
}

}  // namespace make_layer_types_test
