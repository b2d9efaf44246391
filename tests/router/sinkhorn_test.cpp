#include <doctest/doctest.h>

#include "moxie/backend/thread_pool.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/priority.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/sinkhorn_expert_choice.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
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

/// [T, E, C] of what is kept.
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

TEST_CASE_TEMPLATE("the golden vector of Sinkhorn token choice", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("08_sinkhorn_token_choice");
  const auto& expected = v["expected"];
  const SinkhornTopKRouter router{.k = v["inputs"]["k"], .iterations = v["inputs"]["iters"]};
  const RoutingShape s = shape_of(router, 6, 6, 3, v["inputs"]["capacity"]);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_mode(Mode::eval);
  f.set_logits(test::flat<double>(v["inputs"]["logits"]));
  router.route(backend, f.context, f.routing);
  f.assign(WithPriority{BatchPriority{}, FixedCapacity{s.capacity}});
  CHECK(all_near(doubles(f.plan()), test::flat<double>(expected["plan"]), near_by<B>));
  CHECK(f.choices() == test::flat<std::int32_t>(expected["expert"]));
  CHECK(f.slots() == test::flat<std::int32_t>(expected["slot"]));
  Ints kept;
  for (const std::int32_t r : f.rows()) kept.push_back(r >= 0);
  CHECK(kept == test::flat<std::int32_t>(expected["kept"]));
  CHECK(all_near(combine_of(backend, f, s.capacity), test::flat<double>(expected["combine"]),
                 near_by<B>));
}

TEST_CASE_TEMPLATE("the golden vector of Sinkhorn expert choice", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("09_sinkhorn_expert_choice");
  const auto& expected = v["expected"];
  const SinkhornExpertChoiceRouter router{.iterations = v["inputs"]["iters"]};
  const RoutingShape s = shape_of(router, 9, 9, 3, v["inputs"]["capacity"]);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_mode(Mode::eval);
  f.set_logits(test::flat<double>(v["inputs"]["logits"]));
  router.route(backend, f.context, f.routing);
  CHECK(all_near(doubles(f.plan()), test::flat<double>(expected["plan"]), near_by<B>));
  CHECK(f.tokens() == test::flat<std::int32_t>(expected["token"]));
  CHECK(all_near(combine_of(backend, f, 3), test::flat<double>(expected["combine"]), near_by<B>));
}

TEST_CASE_TEMPLATE("the golden vector of the gradient through the plan", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("23_sinkhorn_gradient");
  const Doubles r = test::flat<double>(v["inputs"]["r"]);
  const SinkhornTopKRouter router{
      .k = 3, .iterations = 2000, .combine_source = CombineSource::plan};
  const RoutingShape s = shape_of(router, 4, 4, 3, 4);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_logits(test::flat<double>(v["inputs"]["sim"]));
  router.route(backend, f.context, f.routing);
  CHECK(all_near(doubles(f.plan()), test::flat<double>(v["expected"]["plan"]), near_by<B>));
  Doubles by_choice;  // with k = E, the weights are all of the plan in order of choice
  const Ints choice = f.choices();
  for (std::size_t a = 0; a < choice.size(); ++a)
    by_choice.push_back(r[a / 3 * 3 + static_cast<std::size_t>(choice[a])]);
  testing::detail::from_host(backend, f.gradients.weight, by_choice);
  router.route_backward(backend, f.context, f.routing, f.gradients);
  CHECK(all_near(doubles(f.d_logits()), test::flat<double>(v["expected"]["grad"]), near_by<B>));
}

TEST_CASE_TEMPLATE("in evaluation the softmax can take the plan's place", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const Doubles logits{3, 0, 2, 0, 1, 0};  // every token prefers expert 0
  for (const CombineSource source : {CombineSource::softmax_noisy, CombineSource::plan}) {
    const SinkhornTopKRouter top{.plan_at_eval = false, .combine_source = source};
    const RoutingShape s = shape_of(top, 3, 3, 2, 3);
    SparseFixture<B> f(backend, s, routing_traits(top, backend, s));
    f.set_logits(logits);
    top.route(backend, f.context, f.routing);
    CHECK(f.choices() == Ints{0, 0, 1});  // balanced
    f.set_mode(Mode::eval);
    top.route(backend, f.context, f.routing);
    CHECK(f.choices() == Ints{0, 0, 0});
    CHECK(f.plan() == f.probs());
    CHECK(static_cast<double>(f.weights()[2]) == doctest::Approx(1 / (1 + std::exp(-1.0))));

    const SinkhornExpertChoiceRouter chosen{.plan_at_eval = false, .combine_source = source};
    const RoutingShape cs = shape_of(chosen, 3, 3, 2, 2);
    SparseFixture<B> c(backend, cs, routing_traits(chosen, backend, cs));
    c.set_mode(Mode::eval);
    c.set_logits(logits);
    chosen.route(backend, c.context, c.routing);
    CHECK(c.tokens() == Ints{0, 1, 2, 1});
    // Of the softmax, also when the plan's gradient was asked for.
    backend.fill(Vector<B>(c.gradients.weight.data, c.gradients.weight.size()), 1);
    chosen.route_backward(backend, c.context, c.routing, c.gradients);
    const double p = 1 / (1 + std::exp(-3.0));
    CHECK(static_cast<double>(c.d_logits()[0]) == doctest::Approx(p * (1 - p)));
  }
}

TEST_CASE_TEMPLATE("Sinkhorn routers obey the Router laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& router, Index cases) {
    const testing::LawReport report =
        testing::check_router_laws(backend, router, {.cases = cases, .global = true});
    CHECK_MESSAGE(report.passed, report.message);
  };
  constexpr GaussianNoise noise{.std = 1};
  constexpr auto clean = CombineSource::softmax_clean;
  constexpr auto plan = CombineSource::plan;
  check(WithNoise{noise, SinkhornTopKRouter{.k = 2}}, 400);
  check(SinkhornTopKRouter{.k = 2, .renormalize = true, .tolerance = 1e-2, .combine_source = clean},
        400);
  check(SinkhornTopKRouter{.plan_at_eval = false}, 400);
  check(WithNoise{noise, SinkhornExpertChoiceRouter{.tolerance = 1e-2}}, 400);
  check(SinkhornExpertChoiceRouter{.plan_at_eval = false, .combine_source = clean}, 400);
  // The gradient is that of the fixed point.
  check(WithNoise{noise, SinkhornTopKRouter{.k = 2, .iterations = 600, .combine_source = plan}},
        61);
  check(
      SinkhornTopKRouter{
          .k = 2, .renormalize = true, .epsilon = 2, .iterations = 600, .combine_source = plan},
      61);
  check(SinkhornTopKRouter{.iterations = 600, .plan_at_eval = false, .combine_source = plan}, 61);
  check(WithNoise{noise, SinkhornExpertChoiceRouter{.iterations = 600, .combine_source = plan}},
        61);
}

TEST_CASE_TEMPLATE("Sinkhorn routers give the same bits on any number of threads", T, float,
                   double) {
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
  check(SinkhornTopKRouter{.k = 2, .combine_source = CombineSource::plan});
  check(SinkhornExpertChoiceRouter{.combine_source = CombineSource::plan});
}

TEST_CASE("Sinkhorn routers refuse hyper-parameters that make no sense") {
  const auto text = [](auto router) -> std::string {
    try {
      router.check(4);
    } catch (const config_error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(text(SinkhornTopKRouter{.k = 5}) ==
        "moxie::SinkhornTopKRouter: k is 5, expected 1 to 4 (the number of experts)");
  CHECK(text(SinkhornTopKRouter{.epsilon = 0}) ==
        "moxie::SinkhornTopKRouter: epsilon is 0, expected > 0");
  CHECK(text(SinkhornExpertChoiceRouter{.iterations = 0}) ==
        "moxie::SinkhornExpertChoiceRouter: iterations is 0, expected >= 1");
  CHECK(text(SinkhornExpertChoiceRouter{.tolerance = -1}) ==
        "moxie::SinkhornExpertChoiceRouter: tolerance is -1, expected >= 0");
  CHECK(text(SinkhornTopKRouter{.combine_source = CombineSource::plan}) == "no error");
}
