#include <doctest/doctest.h>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/router/expert_choice.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using testing::SparseFixture;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

template <class R, class B>
RoutingShape shape_of(const R& router, const B&, Index tokens, Index group, Index experts,
                      Index capacity) {
  RoutingShape s{.tokens = tokens,
                 .experts = experts,
                 .choices = router.choices(experts),
                 .group = group,
                 .capacity = capacity};
  s.assignments = router.assignments(s);
  s.rows = s.assignments;
  return s;
}

/// Everything selection fills, cut to what is in use.
struct Lists {
  Ints first, choice, row, slot, token, assignment, offset;
  bool operator==(const Lists&) const = default;
};
template <class B>
Lists lists_of(B& b, const SparseFixture<B>& f) {
  Lists l{testing::detail::to_host(b, f.routing.first),
          f.choices(),
          f.rows(),
          f.slots(),
          f.tokens(),
          f.assignments(),
          f.offsets()};
  const auto n = static_cast<std::size_t>(l.first.back());
  for (Ints* v : {&l.choice, &l.row, &l.slot, &l.token, &l.assignment}) v->resize(n);
  return l;
}

/// The definition: sorts columns, then makes the lists by loops.
Lists oracle(const std::vector<double>& p, const Ints& mask, const RoutingShape& s) {
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  Lists l;
  l.offset.push_back(0);
  std::vector<std::vector<std::array<std::int32_t, 3>>> of_token(at(s.tokens));
  for (Index e = 0; e < s.experts; ++e) {
    for (Index g = 0; g < s.groups(); ++g) {
      Ints order;
      for (Index t = g * s.group; t < (g + 1) * s.group; ++t)
        if (mask.empty() || mask[at(t)] != 0) order.push_back(static_cast<std::int32_t>(t));
      std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return p[at(a * s.experts + e)] > p[at(b * s.experts + e)];
      });
      for (Index c = 0; c < s.capacity && c < static_cast<Index>(order.size()); ++c) {
        of_token[at(order[at(c)])].push_back({static_cast<std::int32_t>(e),
                                              static_cast<std::int32_t>(l.token.size()),
                                              static_cast<std::int32_t>(c)});
        l.token.push_back(order[at(c)]);
      }
    }
    l.offset.push_back(static_cast<std::int32_t>(l.token.size()));
  }
  l.assignment.resize(l.token.size());
  l.first.push_back(0);
  for (const auto& own : of_token) {
    for (const auto& [e, row, slot] : own) {
      l.assignment[at(row)] = static_cast<std::int32_t>(l.choice.size());
      l.choice.push_back(e);
      l.row.push_back(row);
      l.slot.push_back(slot);
    }
    l.first.push_back(static_cast<std::int32_t>(l.choice.size()));
  }
  return l;
}

template <class B>
void check_gates(B& backend, const std::vector<double>& gates, Index experts, Index capacity,
                 const Ints& token, const std::vector<double>& combine, double tolerance) {
  const auto tokens = static_cast<Index>(gates.size()) / experts;
  const ExpertChoiceRouter router;
  const RoutingShape s = shape_of(router, backend, tokens, tokens, experts, capacity);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_mode(Mode::eval);
  f.set_probs(gates);
  router.select(backend, f.context, f.routing);
  router.weigh(backend, f.context, f.routing);
  CHECK(f.tokens() == token);
  const Lists l = lists_of(backend, f);
  const Index slots = capacity < tokens ? capacity : tokens;
  std::vector<double> dense(static_cast<std::size_t>(tokens * experts * slots), 0.0);
  for (std::size_t t = 0; t + 1 < l.first.size(); ++t)
    for (auto a = static_cast<std::size_t>(l.first[t]);
         a < static_cast<std::size_t>(l.first[t + 1]); ++a)
      dense[(t * static_cast<std::size_t>(experts) + static_cast<std::size_t>(l.choice[a])) *
                static_cast<std::size_t>(slots) +
            static_cast<std::size_t>(l.slot[a])] = static_cast<double>(f.weights()[a]);
  CHECK(testing::detail::all_near(dense, combine, tolerance));
}

}  // namespace

TEST_CASE_TEMPLATE("each expert takes its best tokens, and a token's experts are listed", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const ExpertChoiceRouter router;
  const RoutingShape s = shape_of(router, backend, 3, 3, 3, 2);
  CHECK(s.assignments == 6);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_probs({.4, 0, .2, .5, .1, .4, .3, .2, .6});
  router.select(backend, f.context, f.routing);
  router.weigh(backend, f.context, f.routing);
  CHECK(f.tokens() == Ints{1, 0, 2, 1, 2, 1});  // experts per token: 1, 3, 2
  CHECK(f.offsets() == Ints{0, 2, 4, 6});
  CHECK(testing::detail::to_host(backend, f.routing.first) == Ints{0, 1, 4, 6});
  CHECK(f.choices() == Ints{0, 0, 1, 2, 1, 2});
  CHECK(f.rows() == Ints{1, 0, 3, 5, 2, 4});
  CHECK(f.slots() == Ints{1, 0, 1, 1, 0, 0});
  CHECK(f.assignments() == Ints{1, 0, 4, 2, 5, 3});
  const std::vector<double> weight{.4, .5, .1, .4, .2, .6};
  for (std::size_t a = 0; a < 6; ++a)
    CHECK(static_cast<double>(f.weights()[a]) == doctest::Approx(weight[a]));
}

TEST_CASE_TEMPLATE("the golden vector of expert choice", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("07_expert_choice");
  check_gates(backend, test::flat<double>(v["inputs"]["scores"]), 3, v["inputs"]["capacity"],
              test::flat<std::int32_t>(v["expected"]["token"]),
              test::flat<double>(v["expected"]["combine"]),
              sizeof(typename B::Scalar) == 8 ? 1e-10 : 1e-5);
}

TEST_CASE_TEMPLATE("expert choice fills all lists as the definition does", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Draw draw(2);
  const ExpertChoiceRouter router;
  for (int i = 0; i < 2000; ++i) {
    const Index group = draw.from(1, 9);
    const Index tokens = group * draw.from(1, 3);
    const Index experts = draw.from(1, 6);
    const RoutingShape s = shape_of(router, backend, tokens, group, experts, draw.from(1, 11));
    SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    std::vector<double> p;
    for (Index j = 0; j < tokens * experts; ++j)
      p.push_back(static_cast<double>(draw.from(0, 8)) / 8);  // ties
    Ints mask;
    if (draw.chance(.5))
      for (Index t = 0; t < tokens; ++t) mask.push_back(draw.chance(.6) ? 1 : 0);
    f.set_probs(p);
    f.set_mask(mask);
    router.select(backend, f.context, f.routing);
    REQUIRE(lists_of(backend, f) == oracle(p, mask, s));
  }
}

TEST_CASE_TEMPLATE("without tokens no expert takes one", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const ExpertChoiceRouter router;
  const RoutingShape s = shape_of(router, backend, 0, 0, 3, 2);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  router.route(backend, f.context, f.routing);
  CHECK(f.offsets() == Ints{0, 0, 0, 0});
  CHECK(testing::detail::to_host(backend, f.routing.first) == Ints{0});
}

TEST_CASE_TEMPLATE("ExpertChoiceRouter obeys the Router laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& router) {
    const testing::LawReport report = testing::check_router_laws(backend, router, {.global = true});
    CHECK_MESSAGE(report.passed, report.message);
  };
  check(ExpertChoiceRouter{});
  check(WithNoise{GaussianNoise{.std = 1}, ExpertChoiceRouter{}});
  check(WithNoise{GaussianNoise{.std = 1},
                  ExpertChoiceRouter{.combine_source = CombineSource::softmax_clean}});
}

TEST_CASE_TEMPLATE("expert choice gives the same bits on any number of threads", T, float, double) {
  using B = CpuBackend<T>;
  const WithNoise router{GaussianNoise{.std = 1}, ExpertChoiceRouter{}};
  const std::vector<double> logits = Draw(3).normals(600 * 8);
  const auto run = [&](B backend) {
    const RoutingShape s = shape_of(router, backend, 600, 200, 8, 25);
    SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    f.set_logits(logits);
    router.route(backend, f.context, f.routing);
    testing::detail::from_host(backend, f.gradients.weight, Draw(4).normals(s.assignments));
    router.route_backward(backend, f.context, f.routing, f.gradients);
    return std::tuple{lists_of(backend, f), f.weights(), f.d_logits()};
  };
  const auto alone = run(B());
  for (const int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(run(B(pool)) == alone);
  }
}

TEST_CASE("expert choice has no plan to combine by") {
  CHECK_THROWS_WITH_AS(ExpertChoiceRouter{.combine_source = CombineSource::plan}.check(4),
                       "moxie::ExpertChoiceRouter: combine_source is plan, expected a softmax "
                       "(this router makes no plan)",
                       config_error);
}
