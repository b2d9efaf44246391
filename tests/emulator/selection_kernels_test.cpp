// largest_tokens by a radix select, a block for each expert and group.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "emulator/routing_backends.hpp"
#include "moxie/ops/largest_tokens.hpp"

namespace selection_kernels_test {

using namespace moxie;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B>
constexpr bool twin = Accelerates<LargestTokens, B, ConstMatrix<B>, ConstIntVector<B>, TokenQuota,
                                  IntVector<B>, IntVector<B>, Scratch<B>>;
static_assert(twin<test::EmulatedBackend<float>> && twin<test::EmulatedBackend<double>>);
static_assert(!twin<ThrustHostBackend<float>>);

struct Case {
  Index group, groups, experts, count;
  bool positive = false;
  std::vector<double> scores{};
  Ints mask{};
};
struct Taken {
  Ints begin, token;
  bool operator==(const Taken&) const = default;
};

template <class B>
Taken take(B& backend, const Case& c) {
  using T = typename B::Scalar;
  const Index pairs = c.experts * c.groups;
  const test::Buffer<T, B> scores(backend, test::scalars<T>(c.scores));
  const test::Buffer<std::int32_t, B> mask(backend, c.mask);
  const test::Buffer<std::int32_t, B> begin(backend, pairs + 1, -7);
  const test::Buffer<std::int32_t, B> token(backend, pairs * std::min(c.count, c.group), -7);
  const test::Buffer<std::byte, B> scratch(
      backend, static_cast<Index>(largest_tokens_bytes(backend, pairs)), std::byte{});
  largest_tokens(backend, ConstMatrix<B>(scores.view(c.group * c.groups, c.experts)),
                 test::view_of(mask), TokenQuota{c.group, c.count, c.positive}, begin.view(),
                 token.view(), scratch.view());
  return {begin.to_vector(), token.to_vector()};
}

template <class T>
void check_taken(const Case& c, std::uint64_t launches = 2) {
  CAPTURE(c.group);
  CAPTURE(c.groups);
  CAPTURE(c.count);
  ThrustHostBackend<T> host;
  CpuBackend<T> cpu;
  const Taken wanted = take(host, c);
  CHECK(take(cpu, c) == wanted);
  for (const std::uint64_t schedule : test::schedules) {
    auto backend = test::emulated<T>(schedule);
    CHECK(take(backend, c) == wanted);
    CHECK(backend.leaf().launches() == launches);
  }
}

/// Scores of a few values, so that many are equal.
Case drawn(Case c, Draw& draw, double spread, Index masked_of = 0) {
  for (Index i = 0; i < c.group * c.groups * c.experts; ++i)
    c.scores.push_back(std::round(draw.normal() * spread) / 4);
  c.mask = test::random_mask(draw, c.group * c.groups, masked_of);
  return c;
}

}  // namespace

TEST_CASE_TEMPLATE(
    "selection kernels: each expert's tokens are those of the generic form, ties to the lower", T,
    float, double) {
  Draw draw(41);
  for (const Index group : {1, 31, 196})
    for (const Index count : {Index{1}, Index{12}, group + 5})
      check_taken<T>(drawn({.group = group, .groups = 2, .experts = 2, .count = count}, draw,
                           count == 12 ? 0.3 : 20));
}

TEST_CASE_TEMPLATE("selection kernels: masked tokens and scores that must be positive", T, float,
                   double) {
  Draw draw(42);
  for (const Index masked_of : {Index{0}, Index{2}, Index{1}}) {
    check_taken<T>(
        drawn({.group = 70, .groups = 2, .experts = 2, .count = 20}, draw, 3, masked_of));
    check_taken<T>(drawn({.group = 70, .groups = 2, .experts = 2, .count = 40, .positive = true},
                         draw, 3, masked_of));
  }
}

TEST_CASE_TEMPLATE(
    "selection kernels: all scores equal, zeros of both signs, infinities and the smallest "
    "differences",
    T, float, double) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  check_taken<T>({.group = 300,
                  .groups = 1,
                  .experts = 1,
                  .count = 60,
                  .scores = std::vector<double>(300, 0.5)});
  Case zeros{.group = 40, .groups = 1, .experts = 1, .count = 25};
  Case infinite = zeros;
  Case near = zeros;
  for (int i = 0; i < 40; ++i) {
    zeros.scores.push_back(i % 3 == 0 ? -0.0 : i % 7 == 0 ? 1e-40 : 0.0);
    infinite.scores.push_back(i % 4 == 0 ? inf : i % 4 == 1 ? -inf : i);
    near.scores.push_back(
        static_cast<double>(std::nextafter(T(1), static_cast<T>(i % 2 == 0 ? 2 : 0))));
  }
  check_taken<T>(zeros);
  check_taken<T>(infinite);
  check_taken<T>(near);
}

TEST_CASE_TEMPLATE("selection kernels: NaN is taken as in the generic form", T, float, double) {
  Draw draw(43);
  Case c = drawn({.group = 50, .groups = 2, .experts = 2, .count = 9}, draw, 4);
  for (const std::size_t i : {3U, 60U, 64U}) c.scores[i] = std::numeric_limits<double>::quiet_NaN();
  check_taken<T>(c);
  c.positive = true;  // NaN is not above 0
  check_taken<T>(c);
}

TEST_CASE_TEMPLATE("selection kernels: more tokens than a block sorts keep the generic form", T,
                   float, double) {
  Draw draw(44);
  check_taken<T>(drawn({.group = 2100, .groups = 1, .experts = 1, .count = 64}, draw, 1000));
  check_taken<T>(drawn({.group = 4200, .groups = 1, .experts = 1, .count = 4100}, draw, 1000), 0);
}

}  // namespace selection_kernels_test
