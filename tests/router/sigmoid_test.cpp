#include "moxie/router/sigmoid.hpp"

#include <algorithm>
#include <limits>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/router/bias.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

using namespace moxie;
using test::check_near;
using test::to_size;
using testing::SparseFixture;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

double logit(double p) { return std::log(p / (1 - p)); }
std::vector<double> logits(std::vector<double> scores) {
  for (double& s : scores) s = logit(s);
  return scores;
}
template <class R, class B>
RoutingTraits traits(const R& r, const B& b, const RoutingShape& s) {
  return routing_traits(r, b, s);
}

/// A token's experts by the definition: the best groups, then the best experts inside them.
template <class T>
Ints by_definition(const SigmoidTopKRouter& r, const std::vector<T>& ranked) {
  const Index size = static_cast<Index>(ranked.size()) / r.expert_groups;
  std::vector<std::pair<T, Index>> groups;
  for (Index g = 0; g < r.expert_groups; ++g) {
    std::vector<T> own(ranked.begin() + g * size, ranked.begin() + (g + 1) * size);
    std::sort(own.rbegin(), own.rend());
    groups.emplace_back(-(own[0] + (size > 1 ? own[1] : 0)), g);
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<T, std::int32_t>> inside;
  for (Index i = 0; i < r.top_groups; ++i)
    for (Index e = groups[to_size(i)].second * size; e < (groups[to_size(i)].second + 1) * size;
         ++e)
      inside.emplace_back(-ranked[to_size(e)], static_cast<std::int32_t>(e));
  std::sort(inside.begin(), inside.end());
  Ints out;
  for (Index k = 0; k < r.k; ++k) out.push_back(inside[to_size(k)].second);
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("SigmoidTopKRouter takes the k largest sigmoids, renormalized", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 2, .experts = 4, .choices = 2});
  f.set_logits(logits({.1, .6, .9, .2, .5, .5, .25, .5}));
  SigmoidTopKRouter{.k = 2}.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{2, 1, 0, 1});
  check_near(f.weights(), {.6, .4, .5, .5});
  check_near(f.probs(), {.1, .6, .9, .2, .5, .5, .25, .5});
  SigmoidTopKRouter{.k = 2, .renormalize = false, .scale = 2.5}.route(backend, f.context,
                                                                      f.routing);
  check_near(f.weights(), {2.25, 1.5, 1.25, 1.25});
  SigmoidTopKRouter{.k = 2, .scale = 2.5}.route(backend, f.context, f.routing);
  check_near(f.weights(), {1.5, 1, 1.25, 1.25});
}

TEST_CASE_TEMPLATE("SigmoidTopKRouter takes experts of its best groups only", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const SigmoidTopKRouter router{.k = 2, .expert_groups = 3, .top_groups = 1};
  const RoutingShape shape{.tokens = 3, .experts = 6, .choices = 2};
  SparseFixture<B> f(backend, shape, traits(router, backend, shape));
  // The best expert of token 0 is alone in its group; groups 0 and 2 of token 1 tie; token 2 is padding.
  f.set_logits(logits({.9, .1, .6, .7, .2, .3,    //
                       .5, .25, .5, .2, .25, .5,  //
                       .5, .25, .5, .2, .25, .5}));
  f.set_mask({1, 1, 0});
  router.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{3, 2, 0, 1, -1, -1});
  CHECK(f.weights()[4] == 0);
  CHECK(f.weights()[5] == 0);
}

TEST_CASE_TEMPLATE(
    "SigmoidTopKRouter's groups are those of the definition, with and without a bias", B,
    MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  Draw draw(4);
  for (int number = 0; number < 200; ++number) {
    const Index groups = draw.from(1, 5);
    SigmoidTopKRouter router{.expert_groups = groups, .top_groups = draw.from(1, groups)};
    const Index experts = groups * draw.from(1, 4);
    router.k = draw.from(1, experts / groups * router.top_groups);
    const RoutingShape shape{.tokens = 3, .experts = experts, .choices = router.k};
    const WithBias biased{BiasBalance{}, router};
    SparseFixture<B> f(backend, shape, traits(biased, backend, shape));
    CAPTURE(number);
    std::vector<double> values = draw.normals(3 * experts);
    if (number % 2 == 0)  // ties
      for (double& v : values) v = std::round(v);
    f.set_logits(values);
    std::vector<double> bias(to_size(experts), 0);
    moxie::Buffer<B, typename B::Scalar> memory(backend, experts);
    if (number % 3 != 0) {
      for (double& v : bias) v = std::round(draw.normal() * 4) / 8;
      testing::detail::from_host(backend, memory.view(), bias);
      f.routing.bias = memory.view();
    }
    biased.route(backend, f.context, f.routing);
    Ints wanted;
    const auto probs = f.probs();
    for (Index t = 0; t < 3; ++t) {
      std::vector<T> ranked;
      for (Index e = 0; e < experts; ++e)
        ranked.push_back(probs[to_size(t * experts + e)] + static_cast<T>(bias[to_size(e)]));
      for (const std::int32_t e : by_definition(router, ranked)) wanted.push_back(e);
    }
    CHECK(f.choices() == wanted);
    // The bias moves the selection, never the weights.
    const auto weights = f.weights();
    for (Index t = 0; t < 3; ++t) {
      double sum = 0;
      for (Index k = 0; k < router.k; ++k)
        sum += static_cast<double>(probs[to_size(t * experts + wanted[to_size(t * router.k + k)])]);
      for (Index k = 0; k < router.k; ++k)
        CHECK(testing::near(
            static_cast<double>(weights[to_size(t * router.k + k)]),
            static_cast<double>(probs[to_size(t * experts + wanted[to_size(t * router.k + k)])]) /
                sum,
            1e-5));
    }
  }
}

TEST_CASE_TEMPLATE("SigmoidTopKRouter obeys the Router laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const testing::RouterLawOptions options{.shift_invariant = false};
  const auto obeys = [&](const auto& router) {
    const testing::LawReport report = testing::check_router_laws(backend, router, options);
    CHECK_MESSAGE(report.passed, report.message);
  };
  obeys(SigmoidTopKRouter{.k = 1});
  obeys(SigmoidTopKRouter{.k = 3, .scale = 2.5});
  obeys(SigmoidTopKRouter{.k = 2, .renormalize = false, .scale = 0.5});
  obeys(WithNoise{GaussianNoise{.std = 1}, SigmoidTopKRouter{.k = 2}});
}

TEST_CASE("SigmoidTopKRouter with groups, a bias and noise: the gradient of weights and scores") {
  CpuBackend<double> backend;
  Draw draw(6);
  const WithNoise router{
      GaussianNoise{.std = 1},
      WithBias{BiasBalance{},
               SigmoidTopKRouter{.k = 3, .expert_groups = 4, .top_groups = 2, .scale = 1.5}}};
  const RoutingShape shape{.tokens = 4, .experts = 12, .choices = 3};
  SparseFixture<CpuBackend<double>> f(backend, shape, traits(router, backend, shape));
  f.set_mask({1, 1, 0, 1});
  std::vector<double> bias = draw.normals(12);
  f.routing.bias = {bias.data(), 12};
  const std::vector<double> x = draw.normals(48);
  const std::vector<double> a = draw.normals(12);
  const std::vector<double> b = draw.normals(48);
  const std::vector<double> c = draw.normals(48);
  const auto loss = [&](const std::vector<double>& from) {
    using testing::detail::dot;
    f.set_logits(from);
    router.route(backend, f.context, f.routing);
    return dot(a, f.weights()) + dot(b, f.probs()) + dot(c, f.noisy_probs());
  };
  loss(x);
  const Ints choice = f.choices();
  f.zero_gradients();
  testing::detail::from_host(backend, f.gradients.weight, a);
  testing::detail::from_host(backend, f.gradients.probs, b);
  testing::detail::from_host(backend, f.gradients.noisy_probs, c);
  router.route_backward(backend, f.context, f.routing, f.gradients);
  const std::vector<double> d = f.d_logits();
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::vector<double> up = x;
    std::vector<double> down = x;
    up[i] += 1e-5;
    down[i] -= 1e-5;
    const double rise = loss(up) - loss(down);
    REQUIRE(f.choices() == choice);
    CHECK(testing::near(d[i], rise / 2e-5, 1e-7));
  }
}

TEST_CASE("Importance measures the balance of scores that are no distribution") {
  CpuBackend<double> backend;
  SparseFixture<CpuBackend<double>> f(backend, {.tokens = 2, .experts = 2, .choices = 1});
  f.set_logits(logits({.75, .25, .25, .75}));
  const SigmoidTopKRouter router{.k = 1};
  router.route(backend, f.context, f.routing);
  const Importance loss{.weight = 1};
  std::vector<double> sums(2);
  double value = -1;
  const auto measure = [&] {
    loss.accumulate(backend, f.context, f.routing, {sums.data(), 2});
    loss.loss(backend, f.context, f.routing, {sums.data(), 2}, {&value, 1});
    return value;
  };
  CHECK(measure() == doctest::Approx(0));
  // Sums 1.5 and 0.5: variance 0.25 around 1. Half of every score measures the same.
  f.set_logits(logits({.75, .25, .75, .25}));
  router.route(backend, f.context, f.routing);
  CHECK(measure() == doctest::Approx(.25));
  f.set_logits(logits({.375, .125, .375, .125}));
  router.route(backend, f.context, f.routing);
  CHECK(measure() == doctest::Approx(.25));
}

TEST_CASE("SigmoidTopKRouter refuses hyper-parameters that make no sense") {
  const auto text = [](const SigmoidTopKRouter& r, Index experts) -> std::string {
    try {
      r.check(experts);
    } catch (const config_error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(text({.k = 4}, 4) == "no error");
  CHECK(text({.k = 5}, 4) ==
        "moxie::SigmoidTopKRouter: k is 5, expected 1 to 4 (the number of experts)");
  CHECK(text({.expert_groups = 3}, 4) ==
        "moxie::SigmoidTopKRouter: expert_groups is 3, expected a divisor of 4 (the number of "
        "experts)");
  CHECK(text({.expert_groups = 0}, 4) ==
        "moxie::SigmoidTopKRouter: expert_groups is 0, expected a divisor of 4 (the number of "
        "experts)");
  CHECK(text({.expert_groups = 2, .top_groups = 3}, 4) ==
        "moxie::SigmoidTopKRouter: top_groups is 3, expected 1 to 2 (expert_groups)");
  CHECK(text({.k = 3, .expert_groups = 2}, 4) ==
        "moxie::SigmoidTopKRouter: k is 3, expected 1 to 2 (the experts of top_groups groups)");
  CHECK(text({.scale = 0}, 4) ==
        "moxie::SigmoidTopKRouter: scale is 0, expected > 0 and at most 1e30");
  CHECK(text({.scale = std::numeric_limits<double>::infinity()}, 4) ==
        "moxie::SigmoidTopKRouter: scale is inf, expected > 0 and at most 1e30");
}

TEST_CASE_TEMPLATE("SigmoidTopKRouter gives the same bits for any number of threads", T, float,
                   double) {
  Draw draw(2);
  const std::vector<double> values = draw.normals(500 * 24);
  const auto run = [&](int threads) {
    ThreadPool pool(threads);
    CpuBackend<T> backend(pool);
    const SigmoidTopKRouter router{.k = 5, .expert_groups = 4, .top_groups = 2};
    const RoutingShape shape{.tokens = 500, .experts = 24, .choices = 5};
    SparseFixture<CpuBackend<T>> f(backend, shape, traits(router, backend, shape));
    f.set_logits(values);
    router.route(backend, f.context, f.routing);
    testing::detail::from_host(backend, f.gradients.weight,
                               std::vector<double>(values.begin(), values.begin() + 2500));
    router.route_backward(backend, f.context, f.routing, f.gradients);
    return std::tuple{f.choices(), f.weights(), f.d_logits()};
  };
  const auto one = run(1);
  for (const int threads : {2, 3, 8}) CHECK(run(threads) == one);
}
