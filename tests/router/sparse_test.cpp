#include <doctest/doctest.h>

#include <limits>

#include "moxie/capacity/fixed.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/sparse_expert_choice.hpp"
#include "moxie/router/sparse_top_k.hpp"
#include "router/plan_fixture.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::SparseFixture;
using testing::detail::all_near;
using testing::detail::Draw;

TEST_CASE_TEMPLATE("the golden vector of sparse expert choice", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("10_sparse_expert_choice");
  const auto& in = v["inputs"];
  for (const int n : test::flat<int>(in["iters"])) {
    const SparseExpertChoiceRouter router{
        .max_iterations = n, .learning_rate = in["lr"], .tolerance = in["tol"]};
    const RoutingShape s = shape_of(router, 8, 8, 2, in["capacity"]);
    SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    f.set_mode(Mode::eval);
    f.set_logits(test::flat<double>(in["logits"]));
    router.route(backend, f.context, f.routing);
    const auto expected = [&](const std::string& name) {
      return v["expected"][name + "_" + std::to_string(n)];
    };
    CHECK(all_near(doubles(f.plan()), test::flat<double>(expected("plan")), near_by<B>));
    CHECK(f.tokens() == test::flat<std::int32_t>(expected("token")));
    CHECK(all_near(combine_of(backend, f, 4), test::flat<double>(expected("combine")), near_by<B>));
  }
}

TEST_CASE_TEMPLATE("the golden vector of sparse token choice", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("11_ksparse_token_choice");
  const auto& in = v["inputs"];
  const auto& expected = v["expected"];
  const SparseTopKRouter router{.k = in["k"],
                                .max_iterations = in["iters"].back(),
                                .learning_rate = in["lr"],
                                .tolerance = in["tol"]};
  const RoutingShape s = shape_of(router, 6, 6, 3, in["capacity"]);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_mode(Mode::eval);
  f.set_logits(test::flat<double>(in["logits"]));
  router.route(backend, f.context, f.routing);
  f.assign(FixedCapacity{s.capacity});
  CHECK(all_near(doubles(f.plan()), test::flat<double>(expected["plan_500"]), near_by<B>));
  CHECK(f.choices() == test::flat<std::int32_t>(expected["expert"]));
  CHECK(f.slots() == test::flat<std::int32_t>(expected["slot"]));
  Ints kept;
  for (const std::int32_t r : f.rows()) kept.push_back(r >= 0);
  CHECK(kept == test::flat<std::int32_t>(expected["kept"]));
  CHECK(all_near(combine_of(backend, f, s.capacity), test::flat<double>(expected["combine"]),
                 near_by<B>));
}

TEST_CASE_TEMPLATE("slots without a non-zero are filled or stay empty", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  // Without steps a column is the projection of 2 q / (S / E), here of q itself: expert 0 gives all
  // of its share to token 2 when that is 1 ahead.
  const auto run = [&](bool fill_zero, double gamma) {
    const SparseExpertChoiceRouter router{
        .max_iterations = 0, .gamma = gamma, .fill_zero = fill_zero};
    const RoutingShape s = shape_of(router, 4, 4, 2, 3);
    SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    f.set_logits({-20, 20, -20, 20, 20, -20, -20, 20});
    router.route(backend, f.context, f.routing);
    const Ints offset = f.offsets();
    Ints token = f.tokens();
    token.resize(static_cast<std::size_t>(offset.back()));
    return std::pair{token, offset};
  };
  CHECK(run(true, .1) == std::pair{Ints{2, 0, 1, 0, 1, 3}, Ints{0, 3, 6}});
  CHECK(run(false, .1) == std::pair{Ints{2, 0, 1, 3}, Ints{0, 1, 4}});
}

TEST_CASE_TEMPLATE("without a limit of the non-zeros, columns are dense", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  for (const bool quadratic : {false, true}) {
    const SparseExpertChoiceRouter router{.quadratic = quadratic};
    const RoutingShape s = shape_of(router, 6, 6, 2, 2);
    SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    f.set_logits(Draw(1).normals(12));
    router.route(backend, f.context, f.routing);
    int nonzeros = 0;
    for (const auto p : f.plan()) nonzeros += p > 0 ? 1 : 0;
    CHECK((quadratic ? nonzeros > 8 : nonzeros == 4));
    CHECK(f.offsets() == Ints{0, 2, 4});
  }
}

TEST_CASE_TEMPLATE("sparse routers do not see the noise", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& router) {
    const WithNoise noisy{GaussianNoise{.std = 50}, router};
    const RoutingShape s = shape_of(router, 6, 6, 3, 2);
    SparseFixture<B> a(backend, s, routing_traits(router, backend, s));
    SparseFixture<B> b(backend, s, routing_traits(noisy, backend, s));
    for (SparseFixture<B>* f : {&a, &b}) f->set_logits(Draw(2).normals(18));
    router.route(backend, a.context, a.routing);
    noisy.route(backend, b.context, b.routing);
    CHECK(b.routing.noise_std > 10);
    CHECK(b.noisy_probs() != b.probs());
    CHECK(a.plan() == b.plan());
    CHECK(a.weights() == b.weights());
  };
  check(SparseTopKRouter{.k = 2});
  check(SparseExpertChoiceRouter{});
}

TEST_CASE_TEMPLATE("adding a number to all logits changes nothing in sparse routers", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& router) {
    const RoutingShape s = shape_of(router, 12, 6, 3, 2);
    Doubles logits = Draw(3).normals(36);
    for (double& v : logits) v = std::round(v * 1024) / 1024;
    Doubles shifted = logits;
    for (double& v : shifted) v += 64;
    SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    f.set_logits(logits);
    router.route(backend, f.context, f.routing);
    const auto before = std::pair{f.choices(), f.weights()};
    f.set_logits(shifted);
    router.route(backend, f.context, f.routing);
    CHECK(std::pair{f.choices(), f.weights()} == before);
  };
  check(SparseTopKRouter{.k = 2});
  check(SparseExpertChoiceRouter{});
}

TEST_CASE_TEMPLATE("sparse routers give the same bits on any number of threads", T, float, double) {
  check_threads<T>(SparseTopKRouter{.k = 2});
  check_threads<T>(SparseExpertChoiceRouter{});
}

TEST_CASE("sparse routers refuse hyper-parameters that make no sense") {
  CHECK(refusal(SparseTopKRouter{.k = 5}) ==
        "moxie::SparseTopKRouter: k is 5, expected 1 to 4 (the number of experts)");
  CHECK(refusal(SparseTopKRouter{.gamma = 0}) ==
        "moxie::SparseTopKRouter: gamma is 0, expected 1e-6 to 1e6");
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(refusal(SparseTopKRouter{.gamma = infinity}) ==
        "moxie::SparseTopKRouter: gamma is inf, expected 1e-6 to 1e6");
  CHECK(refusal(SparseTopKRouter{.learning_rate = infinity}) ==
        "moxie::SparseTopKRouter: learning_rate is inf, expected > 0 and at most 1e6");
  CHECK(refusal(SparseExpertChoiceRouter{.max_iterations = -1}) ==
        "moxie::SparseExpertChoiceRouter: max_iterations is -1, expected >= 0");
  CHECK(refusal(SparseExpertChoiceRouter{.learning_rate = 0}) ==
        "moxie::SparseExpertChoiceRouter: learning_rate is 0, expected > 0 and at most 1e6");
  CHECK(refusal(SparseExpertChoiceRouter{.tolerance = -1}) ==
        "moxie::SparseExpertChoiceRouter: tolerance is -1, expected 0 to 1e6");
}
