#include "moxie/router/replay.hpp"

#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"

using namespace moxie;
using testing::SparseFixture;
using Ints = std::vector<std::int32_t>;

TEST_CASE_TEMPLATE("ReplayRouter gives the rows of a pass's tokens", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const test::Buffer<std::int32_t, B> choice(backend, {0, 1, 2, -1, 1, 2, -1, 0});
  const test::Buffer<T, B> weight(backend, {T(.5), T(.25), T(2), T(9), T(0), T(1), T(9), T(3)});
  const ReplayRouter<B> router{choice.view(4, 2), weight.view(4, 2)};
  CHECK(router.choices(3) == 2);
  router.check(3);
  const auto route = [&](const ReplayRouter<B>& r, Index first, Index tokens, const Ints& mask) {
    SparseFixture<B> f(backend, {.tokens = tokens, .experts = 3, .choices = 2});
    f.set_mask(mask);
    f.context.first_token = first;
    f.set_logits(std::vector<double>(static_cast<std::size_t>(tokens * 3), 0));
    r.route(backend, f.context, f.routing);
    return std::pair{f.choices(), f.weights()};
  };
  const auto all = route(router, 0, 4, {});
  CHECK(all.first == Ints{0, 1, 2, -1, 1, 2, -1, 0});
  CHECK(all.second == std::vector<T>{T(.5), T(.25), T(2), 0, 0, 1, 0, 3});
  const auto part = route(router, 2, 2, {0, 1});
  CHECK(part.first == Ints{-1, -1, -1, 0});
  CHECK(part.second == std::vector<T>{0, 0, 0, 3});
  const auto unit = route({.choice = choice.view(4, 2)}, 1, 2, {});
  CHECK(unit.first == Ints{2, -1, 1, 2});
  CHECK(unit.second == std::vector<T>{1, 0, 1, 1});
  CHECK_THROWS_WITH_AS(route(router, 3, 2, {}),
                       "moxie::ReplayRouter: the pass has tokens 3 to 4, the routes have 4 rows",
                       shape_error);
}

TEST_CASE("ReplayRouter refuses routes that do not fit") {
  using B = CpuBackend<double>;
  B backend;
  std::vector<std::int32_t> choice{0, 3};
  std::vector<double> weight{1, 1};
  CHECK_THROWS_WITH_AS(ReplayRouter<B>{}.check(3),
                       "moxie::ReplayRouter: choice has 0 columns, expected 1 to 3 (the number of "
                       "experts)",
                       config_error);
  const ReplayRouter<B> narrow{{choice.data(), 1, 2}, {weight.data(), 2, 1}};
  CHECK_THROWS_WITH_AS(narrow.check(3),
                       "moxie::ReplayRouter: weight is [2 x 1], expected [1 x 2], one for each "
                       "choice",
                       config_error);
  const ReplayRouter<B> router{{choice.data(), 1, 2}, {weight.data(), 1, 2}};
  CHECK(router == router);
  CHECK_FALSE(router == narrow);
  SparseFixture<B> f(backend, {.tokens = 1, .experts = 3, .choices = 2});
  CHECK_THROWS_WITH_AS(router.route(backend, f.context, f.routing),
                       "moxie::ReplayRouter: choice(0, 1) is 3, expected an expert from 0 to 2, or "
                       "-1 for none",
                       config_error);
}
