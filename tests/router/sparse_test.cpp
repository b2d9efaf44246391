#include <doctest/doctest.h>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/sparse_expert_choice.hpp"
#include "moxie/router/sparse_top_k.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using testing::SparseFixture;
using testing::detail::all_near;
using testing::detail::Draw;
using Doubles = std::vector<double>;
using Ints = std::vector<std::int32_t>;

namespace {

template <class R>
RoutingShape shape_of(const R& router, Index tokens, Index group, Index experts, Index capacity) {
  RoutingShape s{.tokens = tokens,
                 .experts = experts,
                 .choices = router.choices(experts),
                 .group = group,
                 .capacity = capacity};
  s.assignments = router.assignments(s);
  return s;
}
template <class T>
Doubles doubles(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}
template <class B>
constexpr double near_by = sizeof(typename B::Scalar) == 8 ? 1e-9 : 1e-4;

/// Weight at [t, e, slot] of what is kept.
template <class B>
Doubles combine_of(B& b, const SparseFixture<B>& f, Index slots) {
  const RoutingShape& s = f.shape();
  Doubles out(static_cast<std::size_t>(s.tokens * s.experts * slots), 0.0);
  const Ints first = testing::detail::to_host(b, f.routing.first);
  const Ints choice = f.choices();
  const Ints slot = f.slots();
  const Ints row = f.rows();
  const Doubles weight = doubles(f.weights());
  for (Index t = 0; t < s.tokens; ++t) {
    const auto at = static_cast<std::size_t>(t);
    const Index begin = f.routing.first ? first[at] : t * s.choices;
    const Index end = f.routing.first ? first[at + 1] : (t + 1) * s.choices;
    for (auto a = static_cast<std::size_t>(begin); a < static_cast<std::size_t>(end); ++a)
      if (row[a] >= 0)
        out[static_cast<std::size_t>((t * s.experts + choice[a]) * slots + slot[a])] = weight[a];
  }
  return out;
}

}  // namespace

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

TEST_CASE_TEMPLATE("sparse routers obey the Router laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& router, bool ties) {
    // A shift of the logits changes the last bits of the softmax, and equal tokens may then part.
    const testing::LawReport report =
        testing::check_router_laws(backend, router,
                                   {.cases = 400,
                                    .global = true,
                                    .ties_to_lower_expert = ties,
                                    .permutable_experts = sizeof(typename B::Scalar) == 8,
                                    .shift_invariant = false});
    CHECK_MESSAGE(report.passed, report.message);
  };
  check(WithNoise{GaussianNoise{.std = 1}, SparseTopKRouter{.k = 2}}, false);
  check(SparseTopKRouter{.renormalize = true, .max_iterations = 3}, false);
  check(WithNoise{GaussianNoise{.std = 1}, SparseExpertChoiceRouter{}}, true);
  check(SparseExpertChoiceRouter{.fill_zero = false}, true);
  check(SparseExpertChoiceRouter{.max_iterations = 3, .quadratic = true}, true);
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
  using B = CpuBackend<T>;
  const auto check = [](const auto& router) {
    const auto run = [&](B backend) {
      const RoutingShape s = shape_of(router, 400, 200, 10, 30);
      SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
      f.set_logits(Draw(3).normals(400 * 10));
      router.route(backend, f.context, f.routing);
      testing::detail::from_host(backend, f.gradients.weight,
                                 Draw(4).normals(f.routing.weight.size()));
      router.route_backward(backend, f.context, f.routing, f.gradients);
      return std::tuple{f.plan(), f.choices(), f.weights(), f.d_logits()};
    };
    const auto alone = run(B());
    for (const int threads : {2, 3, 8}) {
      ThreadPool pool(threads);
      CHECK(run(B(pool)) == alone);
    }
  };
  check(SparseTopKRouter{.k = 2});
  check(SparseExpertChoiceRouter{});
}

TEST_CASE("sparse routers refuse hyper-parameters that make no sense") {
  const auto text = [](auto router) -> std::string {
    try {
      router.check(4);
    } catch (const config_error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(text(SparseTopKRouter{.k = 5}) ==
        "moxie::SparseTopKRouter: k is 5, expected 1 to 4 (the number of experts)");
  CHECK(text(SparseTopKRouter{.gamma = 0}) == "moxie::SparseTopKRouter: gamma is 0, expected > 0");
  CHECK(text(SparseExpertChoiceRouter{.max_iterations = -1}) ==
        "moxie::SparseExpertChoiceRouter: max_iterations is -1, expected >= 0");
  CHECK(text(SparseExpertChoiceRouter{.learning_rate = 0}) ==
        "moxie::SparseExpertChoiceRouter: learning_rate is 0, expected > 0");
  CHECK(text(SparseExpertChoiceRouter{.tolerance = -1}) ==
        "moxie::SparseExpertChoiceRouter: tolerance is -1, expected >= 0");
}
