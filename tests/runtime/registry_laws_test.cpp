// The laws of the Router concept over all routers that have a name, and properties of whole layers
// around each of them.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/testing/router_laws.hpp"
#include "runtime/made_layers.hpp"

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
template <class T>
std::vector<T> rows_at(const std::vector<T>& m, Index cols, const std::vector<Index>& order) {
  std::vector<T> out;
  for (const Index t : order)
    out.insert(out.end(), m.begin() + t * cols, m.begin() + (t + 1) * cols);
  return out;
}
std::vector<Index> range(Index first, Index last) {
  std::vector<Index> out;
  for (Index i = first; i < last; ++i) out.push_back(i);
  return out;
}
/// Of token t's assignments a: f(a).
template <class T, class F>
void for_each_assignment(const Ran<T>& ran, Index t, const F& f) {
  const Index k = ran.shape.choices;
  const Index first = ran.first.empty() ? t * k : ran.first[static_cast<std::size_t>(t)];
  const Index last = ran.first.empty() ? (t + 1) * k : ran.first[static_cast<std::size_t>(t) + 1];
  for (Index a = first; a < last; ++a) f(static_cast<std::size_t>(a));
}
/// The sum of the weights of t's kept assignments.
template <class T>
T kept_weight(const Ran<T>& ran, Index t) {
  T sum = 0;
  for_each_assignment(ran, t,
                      [&](std::size_t a) { sum += ran.row[a] >= 0 ? ran.weight[a] : T(0); });
  return sum;
}
/// Every loss that any routing has.
std::vector<RegularizerChoice> some_losses() {
  return {{.name = "importance", .weight = 0.3},
          {.name = "local_entropy", .weight = 0.1},
          {.name = "mutual_information", .weight = 0.1}};
}
/// A router with what it can do: noise, two choices.
MoeConfig rich_config(std::string_view router) {
  MoeConfig c = small_config(router);
  c.shape.seed = 3;
  if (!chooses_tokens_or_mixes(router)) c.router.k = 2;
  if (router != "sigmoid_token_choice") c.router.noise = 0.5;
  c.regularizers = some_losses();
  return c;
}
template <class B>
std::vector<std::string> token_choices() {
  std::vector<std::string> out;
  for (const std::string& name : router_names<B>())
    if (!experts_choose(name)) out.push_back(name);
  return out;
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
      if (noise > 0 && name == "sigmoid_token_choice") continue;
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
    c.capacity.factor = 0.3 + 1.5 * draw.uniform();
    if (c.capacity.rule == "floor" || c.capacity.rule == "tutel")  // below 1 slot, they are refused
      c.capacity.factor += static_cast<double>(c.shape.experts);
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
      c.capacity.slots = slots;
      CHECK(run(made_layer(backend, c), 18, {.seed = 2}) == dropless);
    }
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

TEST_CASE("permuting the tokens of a group permutes the result") {
  using B = CpuBackend<double>;
  B backend;
  for (const std::string& name : all_routers<B>()) {
    if (name == "hash" || name == "uniform") continue;  // route by place
    CAPTURE(name);
    MoeConfig c = rich_config(name);
    c.shape.group = 8;
    c.router.noise = 0;  // drawn by place
    c.capacity.factor = 0.8;
    if (!chooses_tokens_or_mixes(name)) c.capacity.priority = "bpr";
    const AnyLayer<B> layer = made_layer(backend, c);
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      Draw draw(seed);
      const std::vector<double> x = draw.normals(80);
      const std::vector<double> dy = draw.normals(80);
      std::vector<Index> order = draw.permutation(8);
      for (const Index t : draw.permutation(8)) order.push_back(8 + t);
      const auto plain = run(layer, x, dy);
      const auto permuted = run(layer, rows_at(x, 5, order), rows_at(dy, 5, order));
      CHECK(all_near(permuted.y, rows_at(plain.y, 5, order), 1e-9));
      CHECK(all_near(permuted.dx, rows_at(plain.dx, 5, order), 1e-9));
      CHECK(all_near(permuted.gradients, plain.gradients, 1e-9));
      CHECK(all_near(permuted.losses, plain.losses, 1e-12));
    }
  }
}

TEST_CASE_TEMPLATE("forward and backward give the same bits for 1, 2, 3 and 8 threads", T, float,
                   double) {
  using B = CpuBackend<T>;
  for (const std::string& name : all_routers<B>())
    for (const char* expert : {"mlp", "swiglu"}) {
      CAPTURE(name);
      MoeConfig c = rich_config(name);
      c.shape = {.width = 20, .experts = 7, .group = 96, .seed = 1};
      c.expert = {.kind = expert, .hidden = 9};
      if (!chooses_tokens_or_mixes(name)) {
        c.capacity.priority = "bpr";
        c.capacity.overflow = "next_choice";
      }
      const auto on = [&](int threads) {
        ThreadPool pool(threads);
        B backend(pool);
        return run(made_layer(backend, c), 480, {.seed = 4});
      };
      const auto one = on(1);
      for (const int threads : {2, 3, 8}) CHECK(on(threads) == one);
    }
}

TEST_CASE_TEMPLATE("splitting or reordering a batch changes no bit of a dropless token choice", B,
                   MOXIE_TEST_BACKENDS) {
  if constexpr (!B::batch_invariant) return;
  B backend = make_backend<B>();
  for (const std::string& name : token_choices<B>()) {
    if (looks_at_group(name)) continue;
    for (const char* expert : {"mlp", "swiglu"}) {
      CAPTURE(name);
      MoeConfig c = rich_config(name);
      c.shape.width = 20;
      c.shape.experts = 7;
      c.expert = {.kind = expert, .hidden = 9};
      c.capacity.rule = "dropless";
      c.regularizers = {};
      const Index tokens = 61;
      const std::vector<double> x = normals(tokens * 20, 1);
      const std::vector<double> dy = normals(tokens * 20, 2);
      const auto part = [&](const AnyLayer<B>& layer, Index first, Index last) {
        const std::vector<Index> rows = range(first, last);
        return run(layer, rows_at(x, 20, rows), rows_at(dy, 20, rows),
                   Pass<B>{.seed = 5, .step = 3, .first_token = first});
      };
      const AnyLayer<B> layer = made_layer(backend, c);
      const auto whole = part(layer, 0, tokens);
      for (const std::vector<Index>& cuts :
           {std::vector<Index>{0, 1, 61}, {0, 30, 61}, {0, 7, 8, 25, 60, 61}}) {
        Ran<typename B::Scalar> joined;
        for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
          const auto ran = part(layer, cuts[i], cuts[i + 1]);
          const auto append = [](auto& to, const auto& from) {
            to.insert(to.end(), from.begin(), from.end());
          };
          append(joined.y, ran.y);
          append(joined.dx, ran.dx);
          append(joined.choice, ran.choice);
          append(joined.weight, ran.weight);
        }
        CHECK(joined.y == whole.y);
        CHECK(joined.dx == whole.dx);
        CHECK(joined.choice == whole.choice);
        CHECK(joined.weight == whole.weight);
      }
      if (name == "hash" || name == "uniform") continue;  // route by place
      c.router.noise = 0;
      const AnyLayer<B> quiet = made_layer(backend, c);
      const auto in_order = part(quiet, 0, tokens);
      const std::vector<Index> order = Draw(8).permutation(tokens);
      const auto mixed =
          run(quiet, rows_at(x, 20, order), rows_at(dy, 20, order), Pass<B>{.seed = 5, .step = 3});
      CHECK(mixed.y == rows_at(in_order.y, 20, order));
      CHECK(mixed.dx == rows_at(in_order.dx, 20, order));
      CHECK(mixed.choice == rows_at(in_order.choice, 2, order));
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

TEST_CASE_TEMPLATE("what a masked token holds changes no bit of anything else", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const std::vector<std::int32_t> used{1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0};
  const test::Buffer<std::int32_t, B> mask(backend, used);
  for (const std::string& name : all_routers<B>()) {
    CAPTURE(name);
    for (const char* overflow : {"drop", "next_choice", "identity"}) {
      if (chooses_tokens_or_mixes(name) && std::string_view(overflow) != "drop") continue;
      MoeConfig c = rich_config(name);
      c.shape.group = 6;
      c.capacity.factor = 0.8;
      c.capacity.overflow = overflow;
      if (!chooses_tokens_or_mixes(name)) c.capacity.priority = "bpr";
      const AnyLayer<B> layer = made_layer(backend, c);
      std::vector<double> x = normals(90, 1);
      std::vector<double> dy = normals(90, 2);
      const Pass<B> pass{.seed = 3, .mask = mask.view()};
      const auto before = run(layer, x, dy, pass);
      for (std::size_t t = 0; t < 18; ++t) {
        if (used[t] != 0) continue;
        for (std::size_t d = 0; d < 5; ++d) {
          CHECK(before.y[t * 5 + d] == 0);
          CHECK(before.dx[t * 5 + d] == 0);
          x[t * 5 + d] = 30 - 20 * static_cast<double>(t + d);
          dy[t * 5 + d] = 1e3;
        }
        if (name != "soft")
          for_each_assignment(before, static_cast<Index>(t),
                              [&](std::size_t a) { CHECK(before.row[a] == -1); });
      }
      CHECK(all_finite(before.losses));
      CHECK(all_finite(before.gradients));
      auto after = run(layer, x, dy, pass);
      after.logits = before.logits;  // of masked tokens, these are their own
      after.probs = before.probs;
      CHECK(after == before);
    }
  }
}

TEST_CASE_TEMPLATE("NaN in a token is an error that names it, whatever the router", B,
                   CpuBackend<double>, CpuBackend<float>) {
  B backend;
  for (const std::string& name : all_routers<B>()) {
    if (name == "hash") continue;  // no gate looks at the token
    CAPTURE(name);
    MoeConfig c = rich_config(name);
    c.shape.group = 4;
    const AnyLayer<B> layer = made_layer(backend, c);
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      std::vector<double> x = normals(40, 1);
      x[5 * 5 + 2] = bad;
      x[7 * 5 + 1] = bad;
      const std::string what = message_of<numeric_error>(
          [&] { (void)run(layer, x, normals(40, 2), Pass<B>{.step = 6, .first_token = 100}); });
      CAPTURE(what);
      CHECK(what.starts_with("moxie::MoeLayer::forward: the gate's logits of token 105 (expert "));
      CHECK(what.find("MoE layer 0, step 6) are NaN or infinite") != std::string::npos);
    }
  }
}

TEST_CASE_TEMPLATE("sizes at the edge: one expert, all experts, groups of one token, no token", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  using T = typename B::Scalar;
  for (const std::string& name : all_routers<B>()) {
    CAPTURE(name);
    const bool tokens_choose = !chooses_tokens_or_mixes(name);
    const auto runs = [&](MoeConfig c, Index tokens, const Pass<B>& pass = {.seed = 1}) {
      const auto ran = run(made_layer(backend, c), tokens, pass);
      CHECK(all_finite(ran.y));
      CHECK(all_finite(ran.dx));
      CHECK(all_finite(ran.gradients));
      CHECK(all_finite(ran.losses));
      return ran;
    };
    {  // E = 1: everything goes to the only expert
      MoeConfig c = rich_config(name);
      c.shape.experts = 1;
      c.router.k = 1;
      c.capacity.slots = 7;
      const auto ran = runs(c, 7);
      if (name != "soft") CHECK(ran.token.size() == 7);
    }
    if (tokens_choose) {  // K = E: every token to every expert
      MoeConfig c = rich_config(name);
      c.router.k = 3;
      c.capacity.rule = "dropless";
      const auto ran = runs(c, 7);
      CHECK(ran.offset == Ints{0, 7, 14, 21});
    }
    {  // S = 1
      MoeConfig c = rich_config(name);
      c.shape.group = 1;
      const auto ran = runs(c, 7);
      if (experts_choose(name)) CHECK(ran.offset == Ints{0, 7, 14, 21});
    }
    {  // capacity above S
      MoeConfig c = rich_config(name);
      c.shape.group = 4;
      c.capacity.slots = 9;
      const auto ran = runs(c, 8);
      if (experts_choose(name) && name != "sparse_expert_choice")
        CHECK(ran.offset == Ints{0, 8, 16, 24});
      if (tokens_choose) CHECK(ran.token.size() == 16);
    }
    {  // one token that is no padding: some experts have none; then none at all
      MoeConfig c = rich_config(name);
      c.shape.group = 4;
      c.router.k = 1;
      Ints only(8, 0);
      const test::Buffer<std::int32_t, B> none(backend, only);
      const auto nothing = runs(c, 8, {.seed = 1, .mask = none.view()});
      CHECK(all_zero(nothing.y));
      CHECK(all_zero(nothing.dx));
      CHECK(all_zero(nothing.gradients));
      if (name != "soft") CHECK(nothing.token.empty());
      only[2] = 1;
      const test::Buffer<std::int32_t, B> one(backend, only);
      const auto ran = runs(c, 8, {.seed = 1, .mask = one.view()});
      CHECK_FALSE(all_zero(ran.y));
      if (tokens_choose) CHECK(ran.token == Ints{2});
      if (experts_choose(name)) CHECK(ran.token == Ints{2, 2, 2});
    }
    for (const Index group : {0, 4}) {  // no tokens
      MoeConfig c = rich_config(name);
      c.shape.group = group;
      const auto ran = runs(c, 0);
      CHECK(ran.y.empty());
      CHECK(ran.dx.empty());
      CHECK(all_zero(ran.gradients));
      CHECK(ran.losses == std::vector<T>{0});
      // Also on a tape that has room, after a pass that had tokens.
      const AnyLayer<B> layer = made_layer(backend, c);
      auto tape = make_tape(layer, 8);
      const testing::detail::OwnedMatrix<B> x(backend, 8, 5, normals(40, 1));
      const testing::detail::OwnedMatrix<B> y(backend, 8, 5);
      layer.forward(x.read(), y.view(), tape, {});
      const Ran<T> before = run(layer, 8);
      layer.parameters().zero_gradients();
      layer.forward(x.read().top(0), y.view().top(0), tape, {});
      layer.backward(x.read().top(0), y.view().top(0), tape);
      CHECK(all_zero(
          testing::detail::to_host(backend, ConstVector<B>(layer.parameters().gradients()))));
      CHECK(run(layer, 8) == before);
    }
  }
}
