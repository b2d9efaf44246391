#include "moxie/router/bias.hpp"

#include "moxie/router/noise.hpp"
#include "moxie/router/sigmoid.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"

using namespace moxie;
using testing::SparseFixture;
using Ints = std::vector<std::int32_t>;

TEST_CASE_TEMPLATE("a bias moves TopKRouter's selection and leaves its weights", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const WithBias router{BiasBalance{}, TopKRouter{.k = 2}};
  const RoutingShape shape{.tokens = 2, .experts = 4, .choices = 2};
  SparseFixture<B> f(backend, shape, routing_traits(router, backend, shape));
  f.set_logits({std::log(.1), std::log(.4), std::log(.3), std::log(.2),  //
                std::log(.5), std::log(.25), std::log(.125), std::log(.125)});
  const test::Buffer<T, B> bias(backend, {T(.125), T(-.125), T(0), T(.25)});
  router.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{1, 2, 0, 1});
  f.routing.bias = bias.view();
  router.route(backend, f.context, f.routing);
  // .225 .275 .3 .45 and .625 .125 .125 .375
  CHECK(f.choices() == Ints{3, 2, 0, 3});
  const std::vector<double> wanted{.2, .3, .5, .125};
  const auto weights = f.weights();
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(testing::near(static_cast<double>(weights[i]), wanted[i], testing::tolerance<T>));
}

TEST_CASE_TEMPLATE("equal sums of score and bias go to the lower expert", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const WithBias router{BiasBalance{}, SigmoidTopKRouter{.k = 2}};
  const RoutingShape shape{.tokens = 1, .experts = 3, .choices = 2};
  SparseFixture<B> f(backend, shape, routing_traits(router, backend, shape));
  const test::Buffer<T, B> bias(backend, {T(0), T(.25), T(.25)});
  f.routing.bias = bias.view();
  f.set_logits({0, 0, 0});
  router.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{1, 2});
}

TEST_CASE_TEMPLATE("WithBias obeys the Router laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  for (const double rate : {0.0, 1e-3}) {
    const testing::LawReport top = testing::check_router_laws(
        backend, WithBias{BiasBalance{.rate = rate}, TopKRouter{.k = 2}}, {.cases = 300});
    CHECK_MESSAGE(top.passed, top.message);
    const testing::LawReport noisy = testing::check_router_laws(
        backend,
        WithNoise{GaussianNoise{}, WithBias{BiasBalance{.rate = rate}, SigmoidTopKRouter{.k = 2}}},
        {.cases = 300, .shift_invariant = false});
    CHECK_MESSAGE(noisy.passed, noisy.message);
  }
}

TEST_CASE("BiasBalance refuses a negative rate") {
  const WithBias router{BiasBalance{.rate = -1}, TopKRouter{}};
  CHECK_THROWS_WITH_AS((void)router.bias_rate(),
                       "moxie::BiasBalance: rate is -1, expected a finite number >= 0",
                       config_error);
}
