#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "moxie/capacity/random_priority.hpp"
#include "moxie/capacity/sum_priority.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"

namespace priority_test {

using namespace moxie;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B, class P>
Ints order_of(B& backend, const testing::SparseFixture<B>& f, const P& priority) {
  const test::Buffer<std::int32_t, B> order(backend, f.shape().tokens, -1);
  const Memory<B> scratch(backend, priority.bytes(backend, f.shape().tokens));
  priority.order(backend, f.context, f.routing, order.view(),
                 Scratch<B>(scratch.data(), static_cast<Index>(scratch.bytes())));
  return order.to_vector();
}

}  // namespace

TEST_CASE_TEMPLATE("BatchPriority looks at the best gate and SumPriority at all chosen", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 4, .choices = 2});
  f.set_probs({.5, .25, .125, .125, .4375, .4375, .0625, .0625, .5, .375, .125, 0});
  f.set_choices({0, 1, 0, 1, 0, 1});
  CHECK(order_of(backend, f, BatchPriority{}) == Ints{0, 2, 1});  // .5, .4375, .5
  CHECK(order_of(backend, f, SumPriority{}) == Ints{1, 2, 0});    // .75, .875, .875
  f.set_choices({0, 1, -1, 1, 2, -1});                            // .75, .4375, .125
  CHECK(order_of(backend, f, SumPriority{}) == Ints{0, 1, 2});
}

TEST_CASE_TEMPLATE("priorities by gates rank by the plan of a router that has one", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 2, .choices = 1}, {.plan = true});
  f.set_probs({.9, .1, .8, .2, .7, .3});
  testing::detail::from_host(backend, f.routing.plan, std::vector<double>{.5, .5, .6, .4, .3, .7});
  f.set_choices({0, 0, 0});
  CHECK(order_of(backend, f, BatchPriority{}) == Ints{2, 1, 0});
  CHECK(order_of(backend, f, SumPriority{}) == Ints{1, 0, 2});
}

TEST_CASE_TEMPLATE("BatchPriority ranks by the noisy gates", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 2, .experts = 2, .choices = 1}, {.noisy = true});
  f.set_probs({.9, .1, .8, .2});
  testing::detail::from_host(backend, f.routing.noisy_probs, std::vector<double>{.6, .4, .3, .7});
  CHECK(order_of(backend, f, BatchPriority{}) == Ints{1, 0});
}

TEST_CASE_TEMPLATE("gates are compared exactly, whatever their size", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  constexpr bool wide = sizeof(T) == sizeof(double);
  testing::SparseFixture<B> close(backend, {.tokens = 2, .experts = 1, .choices = 1});
  close.set_probs({.5 + 1e-12, .5 + 2e-12});
  CHECK(order_of(backend, close, BatchPriority{}) == (wide ? Ints{1, 0} : Ints{0, 1}));

  testing::detail::Draw draw(3);
  for (int i = 0; i < 50; ++i) {
    testing::SparseFixture<B> f(backend, {.tokens = 40, .experts = 1, .choices = 1, .group = 20});
    std::vector<double> gates;
    for (int t = 0; t < 40; ++t) {
      const double size = std::pow(10, (draw.uniform() - 0.5) * (wide ? 600 : 70));
      const double near = gates.empty() ? size : gates.back() * (1 + (wide ? 1e-15 : 1e-6));
      const double again = gates.empty() ? size : gates.back();
      gates.push_back(draw.chance(0.3)   ? 0
                      : draw.chance(0.3) ? near
                      : draw.chance(0.2) ? again
                                         : size);
    }
    f.set_probs(gates);
    const std::vector<T> held = f.probs();
    Ints wanted(40);
    std::iota(wanted.begin(), wanted.end(), 0);
    const auto larger = [&](std::int32_t a, std::int32_t b) {
      return held[static_cast<std::size_t>(a)] > held[static_cast<std::size_t>(b)];
    };
    std::stable_sort(wanted.begin(), wanted.begin() + 20, larger);
    std::stable_sort(wanted.begin() + 20, wanted.end(), larger);
    CHECK(order_of(backend, f, BatchPriority{}) == wanted);
  }
}

TEST_CASE_TEMPLATE("RandomPriority serves each group in every order equally often", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 600, .experts = 1, .choices = 1, .group = 3});
  f.context.seed = 11;
  std::map<Ints, int> seen;
  for (std::uint64_t step = 0; step < 30; ++step) {
    f.context.step = step;
    const Ints order = order_of(backend, f, RandomPriority{});
    for (std::size_t g = 0; g < 200; ++g) {
      Ints one;
      for (std::size_t j = 0; j < 3; ++j)
        one.push_back(order[3 * g + j] - 3 * static_cast<std::int32_t>(g));
      ++seen[one];
    }
  }
  REQUIRE(seen.size() == 6);
  for (const auto& [order, times] : seen) {
    CHECK(times > 1000 - 150);  // 5 standard deviations
    CHECK(times < 1000 + 150);
  }
}

TEST_CASE_TEMPLATE("RandomPriority depends on seed, step, layer and global token only", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> whole(backend, {.tokens = 24, .experts = 1, .choices = 1, .group = 12});
  whole.context.seed = 5;
  whole.context.step = 2;
  const Ints order = order_of(backend, whole, RandomPriority{});
  CHECK(order_of(backend, whole, RandomPriority{}) == order);

  testing::SparseFixture<B> second(backend, {.tokens = 12, .experts = 1, .choices = 1});
  second.context.seed = 5;
  second.context.step = 2;
  second.context.first_token = 12;
  Ints part(order.begin() + 12, order.end());
  for (std::int32_t& t : part) t -= 12;
  CHECK(order_of(backend, second, RandomPriority{}) == part);

  whole.context.step = 3;
  CHECK(order_of(backend, whole, RandomPriority{}) != order);
  whole.context.step = 2;
  whole.context.layer = 1;
  CHECK(order_of(backend, whole, RandomPriority{}) != order);
  whole.context.layer = 0;
  whole.context.seed = 6;
  CHECK(order_of(backend, whole, RandomPriority{}) != order);
}

}  // namespace priority_test
