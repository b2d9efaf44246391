// Parts chosen by name: each choice builds and runs, or is refused with the reason.
#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "moxie/runtime/make_layer.hpp"
#include "runtime/refusals.hpp"

namespace make_layer_test {

using namespace moxie;
using namespace moxie::test;

namespace {

using B = CpuBackend<double>;

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
  CHECK(slots({.slots = 2}) == Pair{2, 2});
  CHECK(slots({.slots = 2, .eval_rule = "ceil", .eval_factor = 1}) == Pair{2, 5});
  CHECK(slots({.slots = 2, .eval_rule = "dropless"}) == Pair{2, 15});
  CHECK(slots({.rule = "dropless", .factor = 1, .eval_rule = "ceil"}) == Pair{15, 5});
  CHECK(slots({}) == Pair{7, 7});  // 6.25
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
    } else if (router == "hash" || router == "uniform") {
      CHECK(why ==
            "moxie::MoeLayer::forward: pass.routes: rank is 0, expected choices: this router "
            "selects by no scores, or shows none (a member `ranked`, router/concept.hpp), so its "
            "experts have no ranks");
    } else {
      CHECK(why == "no error");
    }
  }
}

}  // namespace make_layer_test
