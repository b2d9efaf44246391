#include <doctest/doctest.h>

#include "moxie/ops/largest_tokens.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"

using namespace moxie;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

struct Case {
  Index group, groups, experts, count;
  bool positive = false;
  std::vector<double> scores;
  Ints mask;
};
struct Taken {
  Ints begin, token;
  bool operator==(const Taken&) const = default;
};

template <class B>
Taken run(B& backend, const Case& c) {
  using T = typename B::Scalar;
  const Index tokens = c.group * c.groups;
  const Index pairs = c.experts * c.groups;
  std::vector<T> values;
  for (const double v : c.scores) values.push_back(static_cast<T>(v));
  test::Buffer<T, B> scores(backend, values);
  test::Buffer<std::int32_t, B> mask(backend, c.mask);
  test::Buffer<std::int32_t, B> begin(backend, pairs + 1, -7);
  const Index most = c.count < c.group ? c.count : c.group;
  test::Buffer<std::int32_t, B> token(backend, pairs * most, -7);
  test::Buffer<std::byte, B> scratch(
      backend, static_cast<Index>(largest_tokens_bytes(backend, pairs)), std::byte{});
  largest_tokens(backend, ConstMatrix<B>(scores.view(tokens, c.experts)),
                 c.mask.empty() ? ConstIntVector<B>() : ConstIntVector<B>(mask.view()),
                 TokenQuota{c.group, c.count, c.positive}, begin.view(), token.view(),
                 scratch.view());
  Taken out{begin.to_vector(), token.to_vector()};
  for (std::size_t i = static_cast<std::size_t>(out.begin.back()); i < out.token.size(); ++i)
    CHECK(out.token[i] == -7);  // nothing past the last
  out.token.resize(static_cast<std::size_t>(out.begin.back()));
  return out;
}

/// By a stable sort of each column.
Taken oracle(const Case& c) {
  Taken out{{0}, {}};
  const auto score = [&](Index t, Index e) {
    return c.scores[static_cast<std::size_t>(t * c.experts + e)];
  };
  for (Index e = 0; e < c.experts; ++e)
    for (Index g = 0; g < c.groups; ++g) {
      Ints order;
      for (Index t = g * c.group; t < (g + 1) * c.group; ++t)
        if ((c.mask.empty() || c.mask[static_cast<std::size_t>(t)] != 0) &&
            (!c.positive || score(t, e) > 0))
          order.push_back(static_cast<std::int32_t>(t));
      std::stable_sort(order.begin(), order.end(),
                       [&](std::int32_t a, std::int32_t b) { return score(a, e) > score(b, e); });
      for (std::size_t i = 0; i < order.size() && static_cast<Index>(i) < c.count; ++i)
        out.token.push_back(order[i]);
      out.begin.push_back(static_cast<std::int32_t>(out.token.size()));
    }
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("each expert takes the tokens with its largest scores, ties to the lower token",
                   B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const Taken got = run(backend, {3, 1, 3, 2, false, {.4, 0, .2, .5, .1, .4, .3, .2, .6}, {}});
  CHECK(got.begin == Ints{0, 2, 4, 6});
  CHECK(got.token == Ints{1, 0, 2, 1, 2, 1});
  // equal scores, a negative zero among them; a masked token makes room for nobody
  CHECK(run(backend, {4, 1, 1, 3, false, {0, -0.0, 0, 0}, {1, 0, 1, 1}}).token == Ints{0, 2, 3});
  CHECK(run(backend, {4, 1, 1, 9, false, {1, 2, 2, 3}, {1, 0, 1, 0}}).token == Ints{2, 0});
  CHECK(run(backend, {4, 1, 1, 3, true, {0, 2, 0, 3}, {}}).token == Ints{3, 1});
}

TEST_CASE_TEMPLATE("largest tokens are those of a sort, with ties, padding, groups, any capacity",
                   B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Draw draw(1);
  for (int i = 0; i < 3000; ++i) {
    Case c{draw.from(1, 40),
           draw.from(1, 3),
           draw.from(1, 5),
           draw.from(1, 45),
           draw.chance(.3),
           {},
           {}};
    const double grid = draw.chance(.5) ? 2 : 1000;
    for (Index j = 0; j < c.group * c.groups * c.experts; ++j)
      c.scores.push_back(std::round(draw.normal() * grid) / 8);
    if (draw.chance(.5))
      for (Index t = 0; t < c.group * c.groups; ++t) c.mask.push_back(draw.chance(.6) ? 1 : 0);
    REQUIRE(run(backend, c) == oracle(c));
  }
}

TEST_CASE_TEMPLATE("without tokens nothing is taken", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  CHECK(run(backend, {0, 0, 3, 2, false, {}, {}}).begin == Ints{0});
}

TEST_CASE("a score that is not a number takes no token twice") {
  CpuBackend<double> backend;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Ints token = run(backend, {6, 1, 1, 4, false, {nan, 1, nan, 2, 3, nan}, {}}).token;
  std::sort(token.begin(), token.end());
  CHECK(token.size() == 4);
  CHECK(std::adjacent_find(token.begin(), token.end()) == token.end());
}
