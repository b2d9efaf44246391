#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "moxie/capacity/dropped.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/identity_overflow.hpp"
#include "moxie/capacity/next_choice.hpp"
#include "moxie/capacity/random_priority.hpp"
#include "moxie/capacity/train_eval.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/capacity_laws.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using test::to_size;
using Ints = std::vector<std::int32_t>;
using Doubles = std::vector<double>;

namespace {

struct Seat {
  Index expert, slot;
  friend bool operator==(const Seat&, const Seat&) = default;
};
using Seats = std::vector<std::vector<Seat>>;  // of each token, in the order obtained

/// The loops of the algorithm, written plainly. `scores` [T, E] rank a token's experts.
Seats next_choice(const RoutingShape& s, const Ints& choice, const Ints& order,
                  const Doubles& scores) {
  Seats seats(to_size(s.tokens));
  for (Index g = 0; g < s.groups(); ++g) {
    const std::vector<std::int32_t> served(order.begin() + g * s.group,
                                           order.begin() + (g + 1) * s.group);
    std::vector<Index> count(to_size(s.experts), 0);
    std::vector<Index> wanted(to_size(s.tokens), 0);
    for (Index k = 0; k < s.choices; ++k)
      for (const Index t : served) {
        const Index e = choice[to_size(t * s.choices + k)];
        if (e < 0) continue;
        ++wanted[to_size(t)];
        if (count[to_size(e)] < s.capacity) seats[to_size(t)].push_back({e, count[to_size(e)]++});
      }
    for (Index r = 0; r + s.choices < s.experts; ++r)
      for (const Index t : served) {
        if (static_cast<Index>(seats[to_size(t)].size()) >= wanted[to_size(t)]) continue;
        std::vector<Index> ranked(to_size(s.experts));
        std::iota(ranked.begin(), ranked.end(), 0);
        std::stable_sort(ranked.begin(), ranked.end(), [&](Index a, Index b) {
          return scores[to_size(t * s.experts + a)] > scores[to_size(t * s.experts + b)];
        });
        const Index e = ranked[to_size(s.choices + r)];
        if (count[to_size(e)] < s.capacity) seats[to_size(t)].push_back({e, count[to_size(e)]++});
      }
  }
  return seats;
}

template <class B>
Seats seats_of(const testing::SparseFixture<B>& f) {
  const Ints choice = f.choices();
  const Ints slot = f.slots();
  const Ints row = f.rows();
  Seats seats(to_size(f.shape().tokens));
  for (std::size_t a = 0; a < row.size(); ++a)
    if (row[a] >= 0) seats[a / to_size(f.shape().choices)].push_back({choice[a], slot[a]});
  return seats;
}

/// Rows lie expert after expert, group after group, slot after slot, and the maps invert each
/// other.
template <class B>
bool rows_in_order(const testing::SparseFixture<B>& f) {
  const RoutingShape& s = f.shape();
  const Ints choice = f.choices();
  const Ints slot = f.slots();
  const Ints row = f.rows();
  std::vector<std::array<Index, 4>> places;  // expert, group, slot, assignment
  for (std::size_t a = 0; a < row.size(); ++a) {
    const bool has_slot = choice[a] >= 0 && slot[a] < s.capacity;
    if (has_slot != (row[a] >= 0)) return false;
    const auto t = static_cast<Index>(a) / s.choices;
    if (has_slot) places.push_back({choice[a], t / s.group, slot[a], static_cast<Index>(a)});
  }
  std::sort(places.begin(), places.end());
  if (static_cast<Index>(places.size()) > s.rows) return false;
  Ints offset(to_size(s.experts + 1), 0);
  const Ints token = f.tokens();
  const Ints assignment = f.assignments();
  for (std::size_t r = 0; r < places.size(); ++r) {
    const Index a = places[r][3];
    if (row[to_size(a)] != static_cast<std::int32_t>(r) || assignment[r] != a ||
        token[r] != a / s.choices)
      return false;
    for (Index e = places[r][0] + 1; e <= s.experts; ++e) ++offset[to_size(e)];
  }
  return f.offsets() == offset;
}

template <class B, class C>
Ints order_of(B& backend, const testing::SparseFixture<B>& f, const C& capacity) {
  if constexpr (HasPriority<C, B>) {
    const test::Buffer<std::int32_t, B> order(backend, f.shape().tokens, -1);
    const Memory<B> scratch(backend, capacity.order_bytes(backend, f.shape().tokens));
    capacity.order(backend, f.context, f.routing, order.view(),
                   Scratch<B>(scratch.data(), static_cast<Index>(scratch.bytes())));
    return order.to_vector();
  } else {
    return testing::detail::token_order(f.shape().tokens);
  }
}

/// Random routings under `capacity` of the case's slots, against the loops.
template <class B, class Make>
void compare_with_loops(B& backend, const Make& make, Index cases, bool plan) {
  using T = typename B::Scalar;
  testing::detail::Draw draw(plan ? 2 : 1);
  Index retried = 0;
  Index lost = 0;
  for (Index i = 0; i < cases; ++i) {
    CAPTURE(i);
    const Index group = draw.from(1, 8);
    RoutingShape s{.tokens = group * draw.from(1, 4),
                   .experts = draw.from(1, 6),
                   .group = group,
                   .capacity = draw.from(1, draw.chance(0.8) ? 3 : 10)};
    s.choices = draw.from(1, s.experts);
    testing::SparseFixture<B> f(backend, s, {.noisy = !plan, .plan = plan});
    f.context.seed = 9;
    f.context.step = static_cast<std::uint64_t>(i);
    const Ints mask = testing::detail::draw_mask(draw, s.tokens);
    f.set_mask(mask);
    f.set_logits(draw.normals(s.tokens * s.experts));
    Doubles scores;  // coarse, so that many are equal, and crowded on the lower experts
    for (Index j = 0; j < s.tokens * s.experts; ++j)
      scores.push_back(static_cast<double>(draw.from(0, 5)) -
                       0.5 * static_cast<double>(j % s.experts));
    const TopKRouter router{.k = s.choices};
    if (plan) {
      router.score(backend, f.context, f.routing);
      for (double& v : scores) v += 4;
      testing::detail::from_host(backend, f.routing.plan, scores);
      top_k_rows(backend, ConstMatrix<B>(f.routing.plan), f.context.mask, f.routing.choice);
    } else {
      f.set_noisy_logits(scores);
      router.route(backend, f.context, f.routing);
    }
    const Ints choice = f.choices();
    const auto capacity = make(s.capacity);
    const Seats wanted = next_choice(s, choice, order_of(backend, f, capacity), scores);
    f.assign(capacity);
    REQUIRE(seats_of(f) == wanted);
    REQUIRE(rows_in_order(f));

    // Columns behind the kept ones hold choices that stay dropped; no expert is listed twice.
    const Ints after = f.choices();
    const Ints row = f.rows();
    router.weigh(backend, f.context, f.routing);
    const std::vector<T> weight = f.weights();
    const std::vector<T> probs = plan ? f.probs() : f.noisy_probs();
    for (Index t = 0; t < s.tokens; ++t)
      for (Index k = 0; k < s.choices; ++k) {
        const auto a = to_size(t * s.choices + k);
        REQUIRE((after[a] < 0) == (choice[a] < 0));
        REQUIRE((row[a] >= 0) == (k < static_cast<Index>(wanted[to_size(t)].size())));
        if (after[a] < 0) continue;
        REQUIRE(weight[a] == probs[to_size(t * s.experts + after[a])]);
        for (Index j = 0; j < k; ++j) REQUIRE(after[to_size(t * s.choices + j)] != after[a]);
        retried += row[a] >= 0 && after[a] != choice[a] ? 1 : 0;
        lost += row[a] < 0 ? 1 : 0;
      }
    // What is dropped: only what has no seat.
    Index listed = 0;
    for (const DroppedChoice& d : dropped(backend, f.routing)) {
      REQUIRE(d.choice >= static_cast<Index>(wanted[to_size(d.token)].size()));
      REQUIRE(after[to_size(d.token * s.choices + d.choice)] == d.expert);
      ++listed;
    }
    REQUIRE(listed == std::count_if(row.begin(), row.end(), [&](const std::int32_t& r) {
              return r < 0 && after[static_cast<std::size_t>(&r - row.data())] >= 0;
            }));
  }
  CHECK(retried > cases);  // the cases are not empty
  CHECK(lost > cases / 4);
}

}  // namespace

TEST_CASE_TEMPLATE("next choice by hand: weights are the gates of the experts really used", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 2, .choices = 1, .capacity = 1});
  f.set_logits({.9, .1, .8, .2, .7, .3});
  f.set_probs({.9, .1, .8, .2, .7, .3});
  f.set_choices({0, 0, 0});
  f.assign(WithOverflow{NextChoice{}, FixedCapacity{1}});
  TopKRouter{.k = 1}.weigh(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{0, 1, 0});
  CHECK(f.slots() == Ints{0, 0, 2});
  CHECK(f.rows() == Ints{0, 1, -1});
  CHECK(f.weights()[0] == T(.9));
  CHECK(f.weights()[1] == T(.2));
  CHECK(dropped(backend, f.routing) ==
        std::vector<DroppedChoice>{{.token = 2, .choice = 0, .expert = 0}});
}

TEST_CASE_TEMPLATE("a retried choice comes after the kept one, and what stays dropped last", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 4, .choices = 2, .capacity = 1});
  f.set_logits({9, 8, 7, 1, 9, 1, 8, 7, 9, 8, 1, 7});
  f.set_choices({0, 1, 0, 2, 0, 1});
  f.assign(WithOverflow{NextChoice{}, FixedCapacity{1}});
  // Token 1 keeps 2 and then gets 3. Token 2 lost both, and all experts are full.
  CHECK(f.choices() == Ints{0, 1, 2, 3, 0, 1});
  CHECK(f.slots() == Ints{0, 0, 0, 0, 2, 1});
  CHECK(f.rows() == Ints{0, 1, 2, 3, -1, -1});
  CHECK(dropped(backend, f.routing) == std::vector<DroppedChoice>{{2, 0, 0}, {2, 1, 1}});
}

TEST_CASE_TEMPLATE("next choice ranks as selection does: by gates and bias, or by the plan", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const WithOverflow capacity{NextChoice{}, FixedCapacity{1}};
  testing::SparseFixture<B> f(backend, {.tokens = 2, .experts = 3, .choices = 1, .capacity = 1});
  f.set_logits({3, 2, 1, 3, 2, 1});
  f.set_probs({.5, .3, .2, .5, .3, .2});
  f.set_choices({0, 0});
  f.assign(capacity);
  CHECK(f.choices() == Ints{0, 1});
  const test::Buffer<T, B> bias(backend, std::vector<T>{T(.1), T(0), T(.2)});
  f.routing.bias = bias.view();  // .6, .3, .4
  f.set_choices({0, 0});
  f.assign(capacity);
  CHECK(f.choices() == Ints{0, 2});

  testing::SparseFixture<B> planned(
      backend, {.tokens = 2, .experts = 3, .choices = 1, .capacity = 1}, {.plan = true});
  planned.set_logits({3, 2, 1, 3, 2, 1});
  planned.set_choices({1, 1});
  testing::detail::from_host(backend, planned.routing.plan, Doubles{.2, .5, .3, .2, .5, .3});
  planned.assign(capacity);
  CHECK(planned.choices() == Ints{1, 2});
}

TEST_CASE_TEMPLATE("choices that were never made are not retried", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 3, .choices = 2, .capacity = 1});
  f.set_logits({3, 2, 1, 3, 2, 1, 3, 2, 1});
  f.set_choices({-1, 0, -1, -1, -1, 0});  // recorded drops, padding, and one that overflows
  f.assign(WithOverflow{NextChoice{}, FixedCapacity{1}});
  CHECK(f.choices() == Ints{-1, 0, -1, -1, -1, 1});
  CHECK(f.rows() == Ints{-1, 0, -1, -1, -1, 1});
  CHECK(dropped(backend, f.routing).empty());
}

TEST_CASE_TEMPLATE("next choice gives the numbers of the golden vector", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("05_token_choice_next");
  const nlohmann::json& logits = v["inputs"]["logits"];
  const Index k = v["inputs"]["k"];
  const FixedCapacity rule{v["inputs"]["capacity"].get<Index>()};
  REQUIRE(v["inputs"]["priority"] == "bpr");
  const RoutingShape shape{.tokens = static_cast<Index>(logits.size()),
                           .experts = static_cast<Index>(logits[0].size()),
                           .choices = k,
                           .capacity = rule.capacity};
  testing::SparseFixture<B> f(backend, shape);
  f.set_logits(test::flat<double>(logits));
  TopKRouter{.k = k}.route(backend, f.context, f.routing);

  f.assign(WithPriority{BatchPriority{}, rule});
  std::vector<bool> without_retry(logits.size(), true);
  for (const DroppedChoice& d : dropped(backend, f.routing))
    without_retry[to_size(d.token)] = false;
  CHECK(without_retry == test::flat<bool>(v["expected"]["without_retry"]));

  f.assign(WithOverflow{NextChoice{}, WithPriority{BatchPriority{}, rule}});
  Seats wanted;
  for (const nlohmann::json& token : v["expected"]["assigned"]) {
    wanted.emplace_back();
    for (const nlohmann::json& seat : token)
      wanted.back().push_back({seat[0].get<Index>(), seat[1].get<Index>()});
  }
  CHECK(seats_of(f) == wanted);
  CHECK(rows_in_order(f));
}

TEST_CASE_TEMPLATE("next choice is the loop over ranks and tokens", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  compare_with_loops(
      backend,
      [](Index c) {
        return WithOverflow{NextChoice{}, FixedCapacity{c}};
      },
      1500, false);
  const auto bpr = [](Index c) {
    return WithOverflow{NextChoice{}, WithPriority{BatchPriority{}, FixedCapacity{c}}};
  };
  compare_with_loops(backend, bpr, 1500, false);
  compare_with_loops(backend, bpr, 1500, true);
  compare_with_loops(
      backend,
      [](Index c) {
        return WithPriority{RandomPriority{}, WithOverflow{NextChoice{}, FixedCapacity{c}}};
      },
      1500, false);
}

TEST_CASE_TEMPLATE("a pass without tokens has nothing to serve and nothing to retry", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 0, .experts = 3, .choices = 2, .capacity = 1});
  f.assign(WithOverflow{NextChoice{}, WithPriority{BatchPriority{}, FixedCapacity{1}}});
  CHECK(f.offsets() == Ints{0, 0, 0, 0});
  CHECK(dropped(backend, f.routing).empty());
}

TEST_CASE("whoever assigns slots hears whether weights are stale") {
  using B = CpuBackend<double>;
  B backend;
  testing::SparseFixture<B> f(backend, {.tokens = 2, .experts = 2, .choices = 1, .capacity = 1});
  f.set_logits({1, 0, 1, 0});
  const auto assigned = [&](const auto& capacity) {
    f.set_choices({0, 0});
    AssignMemory<B> memory;
    Arena<B> measured(Gradients::all);
    memory.bind(measured, backend, f.shape(), 1, 0);
    const Memory<B> bytes(backend, measured.peak());
    Arena<B> arena(Gradients::all, bytes.data(), bytes.bytes());
    memory.bind(arena, backend, f.shape(), 1, 0);
    return assign_slots(backend, f.context, capacity, 1, memory, f.routing);
  };
  CHECK(assigned(WithOverflow{NextChoice{}, FixedCapacity{1}}));
  CHECK(f.choices() == Ints{0, 1});
  CHECK(assigned(TrainEval{WithOverflow{NextChoice{}, FixedCapacity{1}}, FixedCapacity{1}}));
  CHECK(f.choices() == Ints{0, 1});
  CHECK_FALSE(assigned(WithOverflow{IdentityOverflow{}, FixedCapacity{1}}));
  CHECK_FALSE(assigned(WithOverflow{Drop{}, FixedCapacity{1}}));
  CHECK_FALSE(assigned(FixedCapacity{1}));
  CHECK(f.choices() == Ints{0, 0});
}

TEST_CASE_TEMPLATE("the other overflow policies serve as a capacity without one", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& capacity) {
    const testing::LawReport report =
        testing::check_capacity_laws(backend, capacity, {.cases = 300});
    CHECK_MESSAGE(report.passed, report.message);
  };
  check(WithOverflow{Drop{}, CapacityFactor{.factor = 0.6}});
  check(WithOverflow{IdentityOverflow{}, WithPriority{BatchPriority{}, FixedCapacity{2}}});
}

TEST_CASE("capacities say whether the dropped weight goes back to the token") {
  CHECK(returns_dropped(WithOverflow{IdentityOverflow{}, FixedCapacity{}}));
  CHECK(returns_dropped(
      TrainEval{WithOverflow{IdentityOverflow{}, FixedCapacity{}}, FixedCapacity{}}));
  CHECK(returns_dropped(
      WithPriority{BatchPriority{}, WithOverflow{IdentityOverflow{}, FixedCapacity{}}}));
  CHECK_FALSE(returns_dropped(WithOverflow{NextChoice{}, FixedCapacity{}}));
  CHECK_FALSE(returns_dropped(FixedCapacity{}));
}

TEST_CASE_TEMPLATE("every dropped pair is listed, and none besides", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend,
                              {.tokens = 4, .experts = 2, .choices = 2, .group = 2, .capacity = 1});
  f.set_choices({0, 1, 0, -1, 1, 0, 1, 0});
  f.assign(FixedCapacity{1});
  CHECK(dropped(backend, f.routing) == std::vector<DroppedChoice>{{1, 0, 0}, {3, 0, 1}, {3, 1, 0}});
}

TEST_CASE_TEMPLATE("the identity policy returns the dropped weight to the token", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  using testing::detail::OwnedMatrix;
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 3, .choices = 2, .capacity = 1});
  f.set_choices({0, 1, 0, 1, 0, -1});
  f.set_weights({.5, .25, .5, .25, .75, 0});
  f.assign(
      WithOverflow{IdentityOverflow{}, FixedCapacity{1}});  // token 1 lost both, token 2 its only
  const OwnedMatrix<B> x(backend, 3, 2, {1, 2, 3, 4, 5, 6});
  const OwnedMatrix<B> y(backend, 3, 2, {1, 1, 0, 0, 0, 0});
  return_dropped(backend, f.routing, x.read(), y.view());
  CHECK(y.get() == std::vector<T>{1, 1, 2.25, 3, 3.75, 4.5});

  const OwnedMatrix<B> dy(backend, 3, 2, {1, 1, 1, -1, 2, 4});
  const OwnedMatrix<B> dx(backend, 3, 2, {1, 1, 1, 1, 1, 1});
  const OwnedMatrix<B> d_weight(backend, 3, 2, {7, 7, 0, 0, 0, 0});
  return_dropped_backward(backend, f.routing, x.read(), dy.read(), dx.view(), d_weight.view());
  CHECK(dx.get() == std::vector<T>{1, 1, 1.75, .25, 2.5, 4});
  CHECK(d_weight.get() == std::vector<T>{7, 7, -1, -1, 34, 0});
  return_dropped_backward(backend, f.routing, x.read(), dy.read(), Matrix<B>{}, d_weight.view());
  CHECK(dx.get() == std::vector<T>{1, 1, 1.75, .25, 2.5, 4});
  return_dropped_backward(backend, f.routing, x.read(), dy.read(), dx.view(), Matrix<B>{});
  CHECK(dx.get() == std::vector<T>{1, 1, 2.5, -.5, 4, 7});
}

TEST_CASE("gradients of the identity policy are central differences") {
  using B = CpuBackend<double>;
  using testing::detail::OwnedMatrix;
  B backend;
  const Index tokens = 9;
  const Index width = 37;  // strips and a rest
  testing::detail::Draw draw(4);
  testing::SparseFixture<B> f(backend,
                              {.tokens = tokens, .experts = 3, .choices = 2, .capacity = 2});
  f.set_choices(testing::detail::draw_choices(draw, tokens, 3, 2, {}));
  f.assign(WithOverflow{IdentityOverflow{}, FixedCapacity{2}});
  REQUIRE(dropped(backend, f.routing).size() > 4);
  Doubles x = draw.normals(tokens * width);
  Doubles weight = draw.normals(tokens * 2);
  const OwnedMatrix<B> r(backend, tokens, width, draw.normals(tokens * width));
  const auto loss = [&] {
    const OwnedMatrix<B> y(backend, tokens, width, Doubles(x.size(), 0.0));
    f.set_weights(weight);
    return_dropped(backend, f.routing, OwnedMatrix<B>(backend, tokens, width, x).read(), y.view());
    return testing::detail::dot(y.get(), r.get());
  };
  (void)loss();
  const OwnedMatrix<B> dx(backend, tokens, width, Doubles(x.size(), 0.0));
  const OwnedMatrix<B> d_weight(backend, tokens, 2, Doubles(weight.size(), 0.0));
  return_dropped_backward(backend, f.routing, OwnedMatrix<B>(backend, tokens, width, x).read(),
                          r.read(), dx.view(), d_weight.view());
  const auto check = [&](Doubles& at_value, const Doubles& gradient) {
    for (std::size_t i = 0; i < at_value.size(); ++i) {
      const double value = at_value[i];
      at_value[i] = value + 1e-4;
      const double above = loss();
      at_value[i] = value - 1e-4;
      const double below = loss();
      at_value[i] = value;
      CHECK(testing::near(gradient[i], (above - below) / 2e-4, 1e-8));
    }
  };
  check(x, dx.get());
  check(weight, d_weight.get());
}
