// What is chosen by name: that each choice builds and runs, is the type that it stands for, and
// that a choice which makes no sense is refused with the reason.
#include <doctest/doctest.h>

#include <limits>

#include "moxie/runtime/make_layer.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "runtime/made_layers.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::SparseFixture;

namespace {

using B = CpuBackend<double>;

std::string refusal(std::string_view router, std::string_view what, std::string_view value,
                    std::string_view expected) {
  const std::string why = router == "soft" ? "its slots are weighted means of all tokens"
                                           : "its experts choose tokens and are always full";
  return "moxie::make_layer: router '" + std::string(router) + "' cannot use " + std::string(what) +
         " '" + std::string(value) + "' (" + why + "): expected " + std::string(expected);
}
/// Why this combination makes no sense; "no error" if it does.
std::string expected_refusal(const MoeConfig& c) {
  const std::string& r = c.router.name;
  if (chooses_tokens_or_mixes(r)) {
    if (c.capacity.rule == "dropless")
      return refusal(r, "capacity", "dropless", "a capacity factor or a number of slots");
    if (c.capacity.priority != "first") return refusal(r, "priority", c.capacity.priority, "first");
    if (c.capacity.overflow != "drop") return refusal(r, "overflow", c.capacity.overflow, "drop");
  }
  if (c.router.gate == "linear") return "no error";
  if (r == "soft")
    return "moxie::make_layer: router 'soft' has a gate of its own, which scores slots: gate "
           "'cosine' and jitter 0 are not for it";
  if (r == "hash")
    return "moxie::make_layer: router 'hash' brings its own gate: gate 'cosine' and jitter 0 are "
           "not for it";
  return "no error";
}
/// Builds, runs, and keeps what the sizes promise.
template <class Back>
void check_runs(Back& backend, const MoeConfig& c) {
  const AnyLayer<Back> layer = made_layer(backend, c);
  const auto ran = run(layer, 12, {.seed = 3, .step = 1});
  CHECK(all_finite(ran.y));
  CHECK(all_finite(ran.dx));
  CHECK(all_finite(ran.gradients));
  CHECK_FALSE(all_zero(ran.y));
  CHECK_FALSE(all_zero(ran.gradients));
  if (c.router.name == "soft") return;
  const RoutingShape& s = ran.shape;
  const auto kept = static_cast<Index>(ran.token.size());
  CHECK(kept > 0);
  const Index k = experts_choose(c.router.name) ? s.experts : s.choices;
  CHECK(kept <= s.groups() * std::min(k * s.group, s.experts * s.capacity));
  if (c.capacity.rule == "dropless") CHECK(kept == 12 * s.choices);
}
template <class F>
std::string refused(const F& change, std::string_view router = "softmax_token_choice") {
  B backend;
  MoeConfig c = small_config(router);
  change(c);
  return message_of<config_error>([&] { (void)made_layer(backend, c); });
}

}  // namespace

TEST_CASE("make_layer makes every combination that makes sense, and refuses the others") {
  B backend;
  int made = 0;
  for (const std::string& router : all_routers<B>())
    for (const std::string_view rule : capacity_names)
      for (const std::string_view priority : priority_names)
        for (const std::string_view overflow : overflow_names)
          for (const std::string_view expert : expert_names)
            for (const std::string_view gate : gate_names) {
              MoeConfig c = small_config(router);
              c.shape.group = 6;
              c.router.k = 2;
              c.router.gate = gate;
              c.capacity = {.rule = std::string(rule),
                            .priority = std::string(priority),
                            .overflow = std::string(overflow)};
              c.expert.kind = expert;
              CAPTURE(router);
              CAPTURE(rule);
              CAPTURE(priority);
              CAPTURE(overflow);
              CAPTURE(expert);
              CAPTURE(gate);
              const std::string why = expected_refusal(c);
              if (why == "no error") {
                check_runs(backend, c);
                ++made;
              } else {
                CHECK(message_of<config_error>([&] { (void)made_layer(backend, c); }) == why);
              }
            }
  // Token choice: 5 routers x 108 capacities x 3 experts x 2 gates, and hash without the gates;
  // expert choice: 3 routers x 8 capacities x 3 experts x 2 gates, and soft without the gates.
  CHECK(made == 5 * 108 * 6 + 108 * 3 + 3 * 8 * 6 + 8 * 3);
}

#if defined(MOXIE_TEST_THRUST)
TEST_CASE("make_layer makes every router, capacity, expert and gate on a device's backend") {
  ThrustHostBackend<double> backend;
  for (const std::string& router : all_routers<ThrustHostBackend<double>>()) {
    CAPTURE(router);
    MoeConfig plain = small_config(router);
    plain.shape.group = 6;
    check_runs(backend, plain);
    for (const std::string_view expert : expert_names) {
      MoeConfig c = plain;
      c.expert.kind = expert;
      check_runs(backend, c);
    }
    if (router != "soft" && router != "hash") {
      MoeConfig c = plain;
      c.router.gate = "cosine";
      check_runs(backend, c);
    }
    if (chooses_tokens_or_mixes(router)) continue;
    for (const std::string_view priority : priority_names)
      for (const std::string_view overflow : overflow_names) {
        MoeConfig c = plain;
        c.capacity.priority = priority;
        c.capacity.overflow = overflow;
        check_runs(backend, c);
      }
  }
}
#endif

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
  same({.name = "sparse_expert_choice", .noise = 1, .iterations = 3, .fill_zero = false},
       SparseExpertChoiceRouter{.max_iterations = 3, .fill_zero = false});
  same({.name = "sparse_expert_choice", .learning_rate = 0.1, .quadratic = true},
       SparseExpertChoiceRouter{.learning_rate = 0.1, .quadratic = true});
  same({.name = "sparse_token_choice", .k = 2, .renormalize = true, .tolerance = 0.1},
       SparseTopKRouter{.k = 2, .renormalize = true, .tolerance = 0.1});
  same({.name = "sigmoid_token_choice", .k = 2, .expert_groups = 2, .top_groups = 1, .scale = 2.5},
       SigmoidTopKRouter{.k = 2, .expert_groups = 2, .top_groups = 1, .scale = 2.5});
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
              TrainEval{WithPriority{BatchPriority{}, CapacityFactor{.factor = 0.7}}, Dropless{}},
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
}

TEST_CASE("a name that there is not is refused with the nearest one") {
  CHECK(refused([](MoeConfig& c) { c.router.name = "softmax_token_choise"; }) ==
        "moxie::RouterRegistry::make: there is no router 'softmax_token_choise' (did you mean "
        "'softmax_token_choice'?), expected one of: softmax_token_choice, sinkhorn_token_choice, "
        "softmax_expert_choice, sinkhorn_expert_choice, sparse_expert_choice, "
        "sparse_token_choice, sigmoid_token_choice, hash, uniform, soft");
  CHECK(refused([](MoeConfig& c) {
          c.router.name = "sofd";
        }).find("there is no router 'sofd' (did you mean 'soft'?)") != std::string::npos);
  CHECK(refused([](MoeConfig& c) { c.router.gate = "cosin"; }) ==
        "moxie::make_gate: there is no gate 'cosin' (did you mean 'cosine'?), expected one of: "
        "linear, cosine");
  CHECK(refused([](MoeConfig& c) { c.expert.kind = "swigul"; }) ==
        "moxie::make_expert: there is no expert 'swigul' (did you mean 'swiglu'?), expected one "
        "of: mlp, swiglu, geglu");
  const std::string noise =
      "moxie::make_noise: there is no noise 'gausian' (did you mean 'gaussian'?), expected one "
      "of: gaussian, gaussian_absolute, gumbel";
  for (const char* router : {"softmax_token_choice", "soft"})
    for (const double scale : {0.0, 0.5})
      CHECK(refused(
                [&](MoeConfig& c) {
                  c.router.noise_kind = "gausian";
                  c.router.noise = scale;
                },
                router) == noise);
  const auto contains = [](const std::string& text, const char* part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  contains(refused([](MoeConfig& c) { c.capacity.rule = "cell"; }),
           "there is no capacity 'cell' (did you mean 'ceil'?)");
  contains(refused([](MoeConfig& c) { c.capacity.eval_rule = "dropeless"; }),
           "there is no capacity 'dropeless' (did you mean 'dropless'?)");
  contains(refused([](MoeConfig& c) { c.capacity.priority = "frist"; }),
           "there is no priority 'frist' (did you mean 'first'?)");
  contains(refused([](MoeConfig& c) { c.capacity.overflow = "next"; }),
           "there is no overflow policy 'next', expected one of: drop, next_choice, identity");
  contains(refused([](MoeConfig& c) { c.regularizers = {{.name = "router-z"}}; }),
           "there is no regularizer 'router-z' (did you mean 'router_z'?)");
}

TEST_CASE("make_layer says why options do not go together") {
  const auto plan = [](MoeConfig& c) { c.router.combine_source = CombineSource::plan; };
  for (const char* router :
       {"softmax_token_choice", "softmax_expert_choice", "sigmoid_token_choice"})
    CHECK(refused(plan, router) ==
          "moxie::RouterRegistry: router '" + std::string(router) +
              "' makes no plan: combine_source is plan, expected softmax_noisy or softmax_clean");
  for (const char* router : {"sparse_token_choice", "sparse_expert_choice"})
    CHECK(refused(plan, router) ==
          "moxie::RouterRegistry: router '" + std::string(router) +
              "' weighs by the softmax alone: combine_source is plan, expected softmax_noisy or "
              "softmax_clean");
  for (const char* router : {"sinkhorn_token_choice", "sinkhorn_expert_choice"})
    CHECK(refused(plan, router) == "no error");

  const auto bias = [](MoeConfig& c) { c.router.bias_rate = 0.5; };
  for (const std::string& router : router_names<B>()) {
    CAPTURE(router);
    const std::string why = refused(bias, router);
    if (router == "softmax_token_choice" || router == "sigmoid_token_choice") {
      CHECK(why == "no error");
    } else {
      CHECK(why == "moxie::RouterRegistry: router '" + router +
                       "' cannot use bias_rate 0.5 (loss-free balancing biases the scores of "
                       "softmax_token_choice and sigmoid_token_choice): expected 0");
    }
  }
  CHECK(refused(bias, "soft") ==
        "moxie::make_layer: router 'soft' chooses nothing that bias_rate 0.5 could balance: "
        "expected 0");
  CHECK(refused([](MoeConfig& c) { c.router.bias_rate = -1; }) ==
        "moxie::BiasBalance: rate is -1, expected >= 0");

  const auto noise = [](MoeConfig& c) { c.router.noise = 0.5; };
  CHECK(refused(noise, "sigmoid_token_choice") ==
        "moxie::RouterRegistry: router 'sigmoid_token_choice' takes no noise, got 0.5");
  const auto gumbel = [](MoeConfig& c) {
    c.router.noise = 0.5;
    c.router.noise_kind = "gumbel";
  };
  CHECK(refused(gumbel, "soft") ==
        "moxie::make_layer: router 'soft' takes Gaussian noise only, got 'gumbel'");
  CHECK(refused(gumbel) == "no error");
  for (const char* router : {"softmax_token_choice", "soft"})
    CHECK(refused([](MoeConfig& c) { c.router.noise = -1; }, router).find(" is -1, expected ") !=
          std::string::npos);

  for (const char* loss : {"load", "tutel_load"})
    for (const char* router : {"softmax_token_choice", "sigmoid_token_choice", "hash"}) {
      CHECK(refused([&](MoeConfig& c) { c.regularizers = {{.name = loss}}; }, router) ==
            "moxie::make_layer: the loss '" + std::string(loss) + "' needs noise, and router '" +
                router + "' has none: give it noise, or leave the loss out");
      CHECK(refused([&](MoeConfig& c) { c.regularizers = {{.name = loss, .weight = 0.0}}; },
                    router) == "no error");
    }
  CHECK(refused([](MoeConfig& c) {
          c.router.noise = 1;
          c.regularizers = {{.name = "load"}, {.name = "tutel_load"}};
        }) == "no error");
  for (const char* loss : {"load", "switch_topk", "switch_balance", "tutel_load"}) {
    CAPTURE(loss);
    CHECK(refused([&](MoeConfig& c) { c.regularizers = {{.name = loss}}; }, "soft") ==
          "moxie::make_regularizers: '" + std::string(loss) +
              "' reads choices or noisy logits, which this router's kind of routing does not have");
  }

  const auto jitter = [](MoeConfig& c) { c.router.jitter = 0.1; };
  CHECK(refused(jitter, "hash") ==
        "moxie::make_layer: router 'hash' brings its own gate: gate 'linear' and jitter 0.1 are "
        "not for it");
  CHECK(refused(jitter, "soft") ==
        "moxie::make_layer: router 'soft' has a gate of its own, which scores slots: gate "
        "'linear' and jitter 0.1 are not for it");
  CHECK(refused([](MoeConfig& c) { c.router.jitter = 1; }) ==
        "moxie::InputJitter: epsilon is 1, expected at least 0 and below 1");
  CHECK(refused([](MoeConfig& c) { c.router.k = 4; }) ==
        "moxie::TopKRouter: k is 4, expected 1 to 3 (the number of experts)");
  CHECK(refused([](MoeConfig& c) { c.router.k = 4; }, "hash") ==
        "moxie::HashRouter: k is 4, expected 1 to 3 (the number of experts)");
  CHECK(refused([](MoeConfig& c) { c.capacity.eval_factor = -1; }) ==
        "moxie::make_capacity: eval_factor is -1, expected a number > 0, or 0 (as in training)");
  CHECK(refused([](MoeConfig& c) { c.capacity.eval_rule = "dropless"; }, "softmax_expert_choice") ==
        refusal("softmax_expert_choice", "capacity", "dropless", "a capacity factor or none"));
  CHECK(refused([](MoeConfig& c) { c.capacity.slots = 0; }, "soft") ==
        "moxie::MoeLayer: the slots of a soft router depend on shape.group, which is 0: give it "
        "the tokens of one image, or a FixedCapacity");
}

TEST_CASE("capacities of training and evaluation are chosen apart") {
  B backend;
  const auto slots = [&](const CapacityConfig& capacity) {
    MoeConfig c = small_config("softmax_token_choice");
    c.capacity = capacity;
    const AnyLayer<B> layer = made_layer(backend, c);
    return std::pair{run(layer, 15).shape.capacity,
                     run(layer, 15, {.mode = Mode::eval}).shape.capacity};
  };
  using Pair = std::pair<Index, Index>;  // 15 / 3 = 5 tokens an expert
  CHECK(slots({.factor = 1}) == Pair{5, 5});
  CHECK(slots({.factor = 1, .eval_factor = 2}) == Pair{5, 10});
  CHECK(slots({.factor = 1, .multiple_of = 4, .eval_factor = 2}) == Pair{8, 12});
  CHECK(slots({.factor = 1, .multiple_of = 4, .eval_rule = "dropless"}) == Pair{8, 15});
  CHECK(slots({.factor = 1, .multiple_of = 4, .eval_rule = "floor"}) == Pair{8, 8});
  CHECK(slots({.factor = 9, .slots = 2}) == Pair{2, 2});
  CHECK(slots({.factor = 1, .slots = 2, .eval_rule = "ceil"}) == Pair{2, 5});
}

TEST_CASE("RouterRegistry takes routers of one's own under names that are free") {
  B backend;
  RouterRegistry<B> registry;
  const auto make = [](const RouterConfig& c) -> AnyRouter<B> { return UniformRouter{.k = c.k}; };
  for (const char* name : {"hash", "softmax_token_choice", "soft"})
    CHECK(message_of<config_error>([&] { registry.add(name, make); }) ==
          "moxie::RouterRegistry::add: the name '" + std::string(name) + "' is taken");
  registry.add("mine", make);
  CHECK(message_of<config_error>([&] { registry.add("mine", make); }) ==
        "moxie::RouterRegistry::add: the name 'mine' is taken");
  CHECK(registry.names().back() == "mine");
  CHECK(registry.names().size() == router_names<B>().size() + 1);
  CHECK(registry.make({.name = "mine", .k = 2}).choices(4) == 2);
  CHECK(message_of<config_error>([&] {
          (void)registry.make({.name = "mime"});
        }).find("there is no router 'mime' (did you mean 'mine'?)") != std::string::npos);

  MoeConfig c = small_config("mine");
  c.router.k = 2;
  const AnyLayer<B> mine = make_layer(root(backend), c, registry);
  mine.parameters().initialize(7);
  c.router.name = "uniform";
  c.shape.seed = 7;
  CHECK(run(mine, 9) == run(made_layer(backend, c), 9));
}

TEST_CASE(
    "a router that brings its gate keeps it: a hash layer has the parameters of experts alone") {
  B backend;
  const AnyLayer<B> layer = made_layer(backend, small_config("hash"));
  for (const ParameterEntry& e : layer.parameters().entries())
    CHECK(e.name.find("Router") == std::string::npos);
  const auto ran = run(layer, 9);
  CHECK(all_zero(ran.logits));
}

TEST_CASE("a tape that another made layer has bound becomes this layer's own") {
  B backend;
  std::vector<AnyLayer<B>> layers;
  for (const char* expert : {"mlp", "swiglu"})
    for (const char* gate : {"linear", "cosine"})
      for (const double jitter : {0.0, 0.1}) {
        MoeConfig c = small_config("softmax_token_choice");
        c.expert.kind = expert;
        c.router.gate = gate;
        c.router.jitter = jitter;
        layers.push_back(made_layer(backend, c));
      }
  const testing::detail::OwnedMatrix<B> x(backend, 8, 5, normals(40, 1));
  const testing::detail::OwnedMatrix<B> y(backend, 8, 5);
  const testing::detail::OwnedMatrix<B> dx(backend, 8, 5);
  AnyTape<B> tape;
  for (int round = 0; round < 2; ++round)
    for (const AnyLayer<B>& layer : layers) {
      const Memory<B> memory(backend, tape_bytes(layer, 8, Gradients::all));
      Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
      layer.bind(arena, 8, tape);
      layer.forward(x.read(), y.view(), tape, {});
      layer.backward(x.read(), dx.view(), tape);
      const auto fresh = run(layer, normals(40, 1), normals(40, 1));
      CHECK(y.get() == fresh.y);
      CHECK(dx.get() == fresh.dx);
    }
}

TEST_CASE("made layers take routes from outside where tokens choose") {
  B backend;
  const Routes<B> best{.rank = 0};
  const Pass<B> given = Pass<B>{}.with(std::span(&best, 1));
  for (const std::string& router : all_routers<B>()) {
    CAPTURE(router);
    const AnyLayer<B> layer = made_layer(backend, small_config(router));
    const std::string why = message_of<config_error>([&] { (void)run(layer, 6, given); });
    if (router == "soft") {
      CHECK(why ==
            "moxie::MoeLayer::forward: pass.routes: this router has no score and weigh, so it "
            "cannot take choices from outside");
    } else if (experts_choose(router)) {
      CHECK(why ==
            "moxie::MoeLayer::forward: pass.routes: with this router experts choose tokens, so it "
            "cannot take choices of tokens from outside");
    } else {
      CHECK(why == "no error");
    }
  }
}
