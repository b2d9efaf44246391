#include "moxie/routing/routing_change.hpp"

#include <set>

#include "moxie/capacity/dropless.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"

using namespace moxie;

namespace {

struct Entry {
  std::int32_t expert;
  bool served = true;
};
TokenExperts experts(const std::vector<std::vector<Entry>>& tokens) {
  TokenExperts out;
  for (const auto& token : tokens) {
    for (const Entry& entry : token) {
      out.expert.push_back(entry.expert);
      out.served.push_back(entry.served ? 1 : 0);
    }
    out.first.push_back(static_cast<Index>(out.expert.size()));
  }
  return out;
}

/// By the definitions, with sets.
RoutingChange by_sets(const TokenExperts& a, const TokenExperts& b) {
  RoutingChange sum;
  for (Index t = 0; t < a.tokens(); ++t) {
    const auto x = a.experts(t), y = b.experts(t);
    const std::set<std::int32_t> old(x.begin(), x.end()), own(y.begin(), y.end());
    std::set<std::int32_t> kept_old, kept_own, all;
    for (std::size_t i = 0; i < x.size(); ++i)
      if (a.is_served(t, static_cast<Index>(i))) kept_old.insert(x[i]);
    for (std::size_t i = 0; i < y.size(); ++i)
      if (b.is_served(t, static_cast<Index>(i))) kept_own.insert(y[i]);
    all = kept_old;
    all.insert(kept_own.begin(), kept_own.end());
    double common = 0;
    for (const std::int32_t e : kept_old) common += kept_own.contains(e) ? 1 : 0;
    sum.top1 += (x.empty() ? -1 : x[0]) != (y.empty() ? -1 : y[0]) ? 1 : 0;
    sum.set += old != own ? 1 : 0;
    sum.iou += all.empty() ? 1 : 1 - common / static_cast<double>(all.size());
  }
  const auto n = static_cast<double>(a.tokens());
  return {sum.top1 / n, sum.set / n, sum.iou / n};
}

}  // namespace

TEST_CASE("routing change counts first experts, sets, and what serves") {
  // Alike; in another order; one other expert; dropped the second time; never served.
  const TokenExperts before =
      experts({{{0}, {1}}, {{2}, {3}}, {{0}, {1}}, {{1}, {2}}, {{3, false}}});
  const TokenExperts after =
      experts({{{0}, {1}}, {{3}, {2}}, {{0}, {2}}, {{1}, {2, false}}, {{3, false}}});
  const RoutingChange change = routing_change(before, after);
  CHECK(change.top1 == doctest::Approx(1.0 / 5));
  CHECK(change.set == doctest::Approx(1.0 / 5));
  // 1 - (1 + 1 + 1/3 + 1/2 + 0) / 5
  CHECK(change.iou == doctest::Approx(1 - (2 + 1.0 / 3 + 0.5) / 5));
  CHECK(routing_change(before, experts({{{0}, {1}}, {{2}, {3}}, {{0}, {1}}, {{1}, {2}}, {{3}}})) ==
        RoutingChange{0, 0, 0.2});  // served by one expert once, by none before
}

TEST_CASE("a token without experts is no change unless it had some") {
  const TokenExperts none = experts({{}, {}});
  const TokenExperts one = experts({{}, {{4}}});
  CHECK(routing_change(none, none) == RoutingChange{0, 0, 1});
  CHECK(routing_change(none, one) == RoutingChange{0.5, 0.5, 1});
  CHECK(routing_change(experts({}), experts({})) == RoutingChange{});
}

TEST_CASE("routing change of any lists is that of their sets") {
  const Random random(3, 1, 4);
  std::uint64_t next = 0;
  const auto draw = [&] {
    std::vector<std::vector<Entry>> tokens(60);
    for (auto& token : tokens) {
      std::set<std::int32_t> seen;
      const std::uint32_t size = random.bits(next++) % 4;
      while (seen.size() < size) {
        const auto e = static_cast<std::int32_t>(random.bits(next++) % 5);
        if (seen.insert(e).second) token.push_back({e, random.bits(next++) % 3 != 0});
      }
    }
    return experts(tokens);
  };
  for (int round = 0; round < 20; ++round) {
    const TokenExperts a = draw(), b = draw();
    const RoutingChange own = routing_change(a, b), wanted = by_sets(a, b);
    CHECK(own.top1 == doctest::Approx(wanted.top1));
    CHECK(own.set == doctest::Approx(wanted.set));
    CHECK(own.iou == doctest::Approx(wanted.iou));
    std::vector<std::int32_t> pairs;
    for (std::int32_t t = 0; t < 60; ++t) pairs.insert(pairs.end(), {t, t});
    CHECK(routing_change(a, b, pairs) == own);
  }
}

TEST_CASE("routing change of pairs compares what corresponds") {
  const TokenExperts before = experts({{{0}}, {{1}}, {{2}}});
  const TokenExperts after = experts({{{2}}, {{0}}});
  using Pairs = std::vector<std::int32_t>;
  CHECK(routing_change(before, after, Pairs{2, 0, 0, 1}) == RoutingChange{});
  CHECK(routing_change(before, after, Pairs{2, 0, 1, 1}) == RoutingChange{0.5, 0.5, 0.5});
  CHECK(routing_change(before, after, Pairs{}) == RoutingChange{});
  CHECK(test::message_of<shape_error>([&] {
          (void)routing_change(before, after, Pairs{0, 2});
        }) == "moxie::routing_change: a pair is (0, 2), expected tokens below 3 and 2");
  CHECK(test::message_of<shape_error>([&] { (void)routing_change(before, after); }) ==
        "moxie::routing_change: after has 2 tokens, expected 3 as before");
}

TEST_CASE_TEMPLATE("experts of tokens are read in the router's order, drops and padding apart", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 4, .choices = 2, .capacity = 1});
  f.set_choices({2, 0, 2, 1, -1, -1});
  f.set_weights({0.6, 0.4, 0.5, 0.0, 0, 0});
  f.assign(Dropless{});  // with the shape's capacity
  TokenExpertsReader<B> reader(backend, 1);
  reader.sparse(f.routing);
  REQUIRE(reader.layers.size() == 1);
  // Expert 2 has one slot, which token 0 gets; expert 1 serves with a weight of 0.
  CHECK(reader.layers[0] == experts({{{2}, {0}}, {{2, false}, {1, false}}, {}}));
}

TEST_CASE_TEMPLATE("a drop that was recorded stays a choice", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  using T = typename B::Scalar;
  using Ids = std::vector<std::int32_t>;
  const auto read = [&](const Ids& choices, const Ids& rows) {
    const test::Buffer<std::int32_t, B> choice(backend, choices), row(backend, rows);
    const test::Buffer<T, B> weight(backend, 10, T(0.5));
    SparseRouting<B> r;
    r.shape = {.tokens = 5, .experts = 3, .choices = 2};
    r.choice = choice.view(5, 2);
    r.row = row.view(5, 2);
    r.weight = weight.view(5, 2);
    TokenExpertsReader<B> reader(backend, 1);
    reader.sparse(r);
    return reader.layers[0];
  };
  // Alike; in another order; a drop that is served now; none before; another second, where the
  // first was dropped.
  const TokenExperts before = read({0, 1, 0, 1, 2, dropped_route(1), -1, -1, 0, dropped_route(2)},
                                   {0, 4, 1, 5, 6, -1, -1, -1, 2, -1});
  CHECK(before == experts({{{0}, {1}}, {{0}, {1}}, {{2}, {1, false}}, {}, {{0}, {2, false}}}));
  const TokenExperts after = read({0, 1, 1, 0, 2, 1, 0, -1, 0, 1}, {0, 5, 6, 1, 9, 7, 2, -1, 3, 8});
  const RoutingChange change = routing_change(before, after);
  CHECK(change.top1 == doctest::Approx(2.0 / 5));
  CHECK(change.set == doctest::Approx(2.0 / 5));
  CHECK(change.iou == doctest::Approx(1 - (1 + 1 + 0.5 + 0 + 0.5) / 5));
}

TEST_CASE_TEMPLATE("where experts choose, a token's are ordered by weight, then by number", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  using T = typename B::Scalar;
  using Ids = std::vector<std::int32_t>;
  const test::Buffer<std::int32_t, B> choice(backend, Ids{3, 1, 0, 2, 1});
  const test::Buffer<std::int32_t, B> row(backend, Ids{4, 1, 0, 3, 2});
  const test::Buffer<std::int32_t, B> first(backend, Ids{0, 3, 3, 5});
  const test::Buffer<T, B> weight(backend, {T(0.25), T(0.5), T(0.25), T(0), T(0.75)});
  SparseRouting<B> r;
  r.shape = {.tokens = 3, .experts = 4};
  r.choice = choice.view(5, 1);
  r.row = row.view(5, 1);
  r.weight = weight.view(5, 1);
  r.first = first.view();
  TokenExpertsReader<B> reader(backend, 1);
  reader.sparse(r);
  CHECK(reader.layers[0] == experts({{{1}, {0}, {3}}, {}, {{1}, {2, false}}}));
}

TEST_CASE_TEMPLATE("of a soft layer the experts that weigh most count", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  using T = typename B::Scalar;
  const test::Buffer<T, B> probs(
      backend, {T(0.25), T(0.5), T(0.25), T(0), T(0), T(1), T(0.5), T(0.25), T(0.25)});
  const test::Buffer<std::int32_t, B> mask(backend, std::vector<std::int32_t>{1, 0, 1});
  SoftRouting<B> r;
  r.shape = {.tokens = 3, .experts = 3};
  r.probs = probs.view(3, 3);
  TokenExpertsReader<B> reader(backend, 2);
  reader.soft(r);
  CHECK(reader.layers[0] == experts({{{1}, {0}}, {{2}, {0, false}}, {{0}, {1}}}));
  r.mask = mask.view();
  TokenExpertsReader<B> all(backend, 9);
  all.soft(r);
  CHECK(all.layers[0] == experts({{{1}, {0}, {2, true}}, {}, {{0}, {1}, {2}}}));
}
