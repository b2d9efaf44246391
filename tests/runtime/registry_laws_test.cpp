// The laws of the Router concept over all routers that have a name, and what whole layers around
// each of them keep: capacities, sums of weights, ties.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "moxie/testing/router_laws.hpp"
#include "runtime/rich_layers.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::detail::all_near;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

/// What is true of the router of this name (testing/router_laws.hpp).
template <class B>
testing::RouterLawOptions laws_of(std::string_view router, bool noisy) {
  testing::RouterLawOptions options{.global = looks_at_group(router)};
  if (router.starts_with("sparse")) {
    // A shift changes the last bits of the softmax, and the first steps of Adam follow their signs.
    options.shift_invariant = false;
    options.ties_to_lower_expert = router == "sparse_expert_choice";
    options.permutable_experts = sizeof(typename B::Scalar) == 8;
  }
  // A plan makes loads of saturated logits equal to the last bits, and a shift changes those of logits
  // with noise, which are no multiples of 1/8.
  if (router == "sinkhorn_token_choice" && noisy) options.shift_invariant = false;
  if (router == "sigmoid_token_choice") options.shift_invariant = false;
  if (router == "hash" || router == "uniform")  // look at no logits
    options.ties_to_lower_expert = options.permutable_experts = false;
  return options;
}
/// The sum of the weights of t's kept assignments.
template <class T>
T kept_weight(const Ran<T>& ran, Index t) {
  T sum = 0;
  for_each_assignment(ran, t,
                      [&](std::size_t a) { sum += ran.row[a] >= 0 ? ran.weight[a] : T(0); });
  return sum;
}
/// Gives all parameters whose names start with `prefix` one value.
template <class B>
void fill_parameters(const AnyLayer<B>& layer, std::string_view prefix, double value) {
  const Parameters<B>& p = layer.parameters();
  for (const ParameterEntry& e : p.entries())
    if (e.name.starts_with(prefix))
      p.backend().fill(layer.parameters().edit().middle(e.offset, e.size()),
                       typename B::Scalar(value));
}

}  // namespace

TEST_CASE_TEMPLATE("every router that has a name obeys the laws of its concept", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  for (const std::string& name : router_names<B>()) {
    for (const double noise : {0.0, 1.0}) {
      if (noise > 0 && !takes_noise(name)) continue;
      RouterConfig c{.name = name, .noise = noise};
      if (!experts_choose(name)) c.k = 2;
      const testing::LawReport report =
          router_laws(backend, made_router<B>(c), laws_of<B>(name, noise > 0));
      CHECK(report.cases >= 1000);
      CHECK_MESSAGE(report.passed, name, ", noise ", noise, ": ", report.message);
    }
  }
}

TEST_CASE_TEMPLATE("no layer keeps more than there are choices or slots, nor fills a slot twice", B,
                   CpuBackend<double>, CpuBackend<float>) {
  B backend;
  Draw draw(5);
  const std::vector<std::string> names = router_names<B>();
  const char* const rules[] = {"ceil", "floor", "vmoe", "tutel", "dropless"};
  const char* const priorities[] = {"first", "bpr", "random", "sum"};
  const char* const overflows[] = {"drop", "next_choice", "identity"};
  for (int i = 0; i < 1000; ++i) {
    const std::string& name = names[static_cast<std::size_t>(i) % names.size()];
    MoeConfig c = small_config(name);
    c.shape = {.width = 3,
               .experts = draw.from(1, 6),
               .group = draw.from(1, 9),
               .seed = static_cast<std::uint64_t>(i)};
    c.capacity.rule = rules[draw.from(0, experts_choose(name) ? 3 : 4)];
    const double factor = 0.3 + 1.5 * draw.uniform();
    if (c.capacity.rule != "dropless") c.capacity.factor = factor;
    if (c.capacity.rule == "floor" || c.capacity.rule == "tutel")  // below 1 slot, they are refused
      c.capacity.factor = factor + static_cast<double>(c.shape.experts);
    if (!experts_choose(name)) {
      c.router.k = draw.from(1, std::min<Index>(3, c.shape.experts));
      c.capacity.priority = priorities[draw.from(0, 3)];
      c.capacity.overflow = overflows[draw.from(0, 2)];
    }
    c.expert.hidden = 2;
    CAPTURE(name);
    CAPTURE(i);
    const Index groups = draw.from(1, 3);
    const auto ran = run(made_layer(backend, c), groups * c.shape.group,
                         {.seed = static_cast<std::uint64_t>(i)});
    const RoutingShape& s = ran.shape;
    std::set<std::tuple<Index, Index, Index>> used;  // group, expert, slot
    std::vector<Index> kept(static_cast<std::size_t>(groups), 0);
    bool sound = true;
    for (Index t = 0; t < s.tokens; ++t)
      for_each_assignment(ran, t, [&](std::size_t a) {
        if (ran.row[a] < 0) return;
        ++kept[static_cast<std::size_t>(t / s.group)];
        sound = sound && ran.slot[a] >= 0 && ran.slot[a] < s.capacity &&
                used.emplace(t / s.group, ran.choice[a], ran.slot[a]).second &&
                ran.token[static_cast<std::size_t>(ran.row[a])] == t;
      });
    CHECK(sound);
    const Index k = experts_choose(name) ? s.experts : s.choices;
    for (const Index n : kept) CHECK(n <= std::min(k * s.group, s.experts * s.capacity));
    CHECK(static_cast<std::size_t>(ran.offset.back()) == used.size());
  }
}

TEST_CASE_TEMPLATE("dropless is a capacity without end", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  for (const std::string& name : token_choices<B>()) {
    CAPTURE(name);
    MoeConfig c = rich_config(name);
    c.shape.group = 6;
    c.capacity.rule = "dropless";
    const auto dropless = run(made_layer(backend, c), 18, {.seed = 2});
    for (const std::int32_t row : dropless.row) CHECK(row >= 0);
    for (const Index slots : {Index{6}, Index{7}, Index{1} << 40}) {
      c.capacity = {.slots = slots};
      CHECK(run(made_layer(backend, c), 18, {.seed = 2}) == dropless);
    }
    c.capacity = {.rule = "dropless"};
    for (const char* overflow : {"next_choice", "identity"}) {
      c.capacity.overflow = overflow;
      CHECK(run(made_layer(backend, c), 18, {.seed = 2}) == dropless);
    }
  }
}

TEST_CASE_TEMPLATE("with experts that are alike, y is the sum of kept weights times f(x)", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  using T = typename B::Scalar;
  for (const char* expert : {"mlp", "swiglu", "geglu"}) {
    // Each token to one expert with weight 1: f(x).
    MoeConfig c = small_config("uniform");
    c.capacity.rule = "dropless";
    c.expert = {.kind = expert, .hidden = 4, .same_experts = true};
    const AnyLayer<B> plain = made_layer(backend, c);
    const auto f = run(plain, 12);
    for (const T w : f.weight) CHECK(w == 1);
    for (const std::string& name : router_names<B>()) {
      CAPTURE(name);
      c = small_config(name);
      c.shape.group = 6;
      if (!experts_choose(name)) c.router.k = 2;
      c.capacity.factor = 0.7;
      c.expert = {.kind = expert, .hidden = 4, .same_experts = true};
      const AnyLayer<B> layer = made_layer(backend, c);
      const auto from = testing::detail::to_host(backend, plain.parameters().values());
      for (const ParameterEntry& e : layer.parameters().entries())
        for (const ParameterEntry& source : plain.parameters().entries())
          if (e.name == source.name && !e.name.starts_with("Router")) {
            REQUIRE(e.size() == source.size());
            testing::detail::from_host(
                backend, layer.parameters().edit().middle(e.offset, e.size()),
                std::vector<T>(from.begin() + source.offset,
                               from.begin() + source.offset + source.size()));
          }
      const auto ran = run(layer, 12);
      std::vector<T> wanted;
      for (Index t = 0; t < 12; ++t)
        for (Index d = 0; d < 5; ++d)
          wanted.push_back(kept_weight(ran, t) * f.y[static_cast<std::size_t>(t * 5 + d)]);
      CHECK(all_near(ran.y, wanted, testing::tolerance<T>));
    }
  }
}

TEST_CASE_TEMPLATE("soft tensors are normalised both ways, padding left out", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  using T = typename B::Scalar;
  MoeConfig c = rich_config("soft");
  c.shape.group = 6;
  const test::Buffer<std::int32_t, B> mask(backend, {1, 1, 0, 1, 1, 1, 0, 1, 0, 0, 0, 0});
  for (const bool masked : {false, true}) {
    Pass<B> pass{.seed = 2};
    if (masked) pass.mask = mask.view();
    const auto ran = run(made_layer(backend, c), 12, pass);
    const Index columns = 6;  // 3 experts x 2 slots
    REQUIRE(ran.weight.size() == 2 * 12 * 6);
    const auto combine = [&](Index t, Index s) {
      return ran.weight[static_cast<std::size_t>(t * columns + s)];
    };
    const auto dispatch = [&](Index t, Index s) {
      return ran.weight[static_cast<std::size_t>((12 + t) * columns + s)];
    };
    const std::vector<std::int32_t> used = mask.to_vector();
    for (Index t = 0; t < 12; ++t) {
      T sum = 0;
      for (Index s = 0; s < columns; ++s) {
        CHECK(combine(t, s) >= 0);
        CHECK(dispatch(t, s) >= 0);
        if (masked && used[static_cast<std::size_t>(t)] == 0) CHECK(dispatch(t, s) == 0);
        sum += combine(t, s);
      }
      const bool padding = masked && used[static_cast<std::size_t>(t)] == 0;
      CHECK(testing::near(static_cast<double>(sum), padding ? 0 : 1, testing::tolerance<T>));
    }
    for (Index g = 0; g < 2; ++g)
      for (Index s = 0; s < columns; ++s) {
        T sum = 0;
        for (Index t = 6 * g; t < 6 * g + 6; ++t) sum += dispatch(t, s);
        CHECK(testing::near(static_cast<double>(sum), 1, testing::tolerance<T>));
      }
  }
}

TEST_CASE_TEMPLATE("ties go to the lower expert and to the lower token", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  for (const std::string& name : router_names<B>()) {
    if (name == "hash" || name == "uniform") continue;  // look at no logits
    CAPTURE(name);
    MoeConfig c = small_config(name);
    c.shape.experts = 4;
    c.shape.group = 6;
    c.capacity.slots = 2;
    if (!experts_choose(name)) c.router.k = 2;
    for (const char* priority : {"first", "bpr", "sum"}) {
      if (experts_choose(name) && std::string_view(priority) != "first") continue;
      c.capacity.priority = priority;
      const AnyLayer<B> layer = made_layer(backend, c);
      fill_parameters(layer, "Router", 0);
      const auto ran = run(layer, 12);
      CHECK(all_zero(ran.logits));
      if (experts_choose(name)) {  // every expert takes the first tokens of each group
        CHECK(ran.token == Ints{0, 1, 6, 7, 0, 1, 6, 7, 0, 1, 6, 7, 0, 1, 6, 7});
        continue;
      }
      if (looks_at_group(name)) continue;  // the plan of equal tokens is balanced by rounding
      Ints choice;
      for (int t = 0; t < 12; ++t) choice.insert(choice.end(), {0, 1});
      CHECK(ran.choice == choice);
      CHECK(ran.token == Ints{0, 1, 6, 7, 0, 1, 6, 7});
    }
  }
}
