#include <doctest/doctest.h>

#include <limits>

#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/priority.hpp"
#include "moxie/router/sinkhorn_expert_choice.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "router/plan_fixture.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::SparseFixture;
using testing::detail::all_near;

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
  const Doubles logits{3, 0, 2.5, 0, 1, 0};  // every token prefers expert 0
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

TEST_CASE_TEMPLATE("the smallest epsilon and far logits leave a plan of numbers", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const SinkhornTopKRouter router{.epsilon = 1e-6};
  const RoutingShape s = shape_of(router, 3, 3, 2, 3);
  SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
  f.set_logits({1e30, 0, -1e30, 0, 1, 2});
  router.route(backend, f.context, f.routing);
  for (const auto p : f.plan()) CHECK(math::is_finite(p));
}

TEST_CASE_TEMPLATE("Sinkhorn routers give the same bits on any number of threads", T, float,
                   double) {
  check_threads<T>(SinkhornTopKRouter{.k = 2, .combine_source = CombineSource::plan});
  check_threads<T>(SinkhornExpertChoiceRouter{.combine_source = CombineSource::plan});
}

TEST_CASE("Sinkhorn routers refuse hyper-parameters that make no sense") {
  CHECK(refusal(SinkhornTopKRouter{.k = 5}) ==
        "moxie::SinkhornTopKRouter: k is 5, expected 1 to 4 (the number of experts)");
  CHECK(refusal(SinkhornTopKRouter{.epsilon = 0}) ==
        "moxie::SinkhornTopKRouter: epsilon is 0, expected 1e-6 to 1e6");
  CHECK(refusal(SinkhornTopKRouter{.epsilon = 1e-7}) ==
        "moxie::SinkhornTopKRouter: epsilon is 1e-07, expected 1e-6 to 1e6");
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK(refusal(SinkhornTopKRouter{.epsilon = infinity}) ==
        "moxie::SinkhornTopKRouter: epsilon is inf, expected 1e-6 to 1e6");
  CHECK(refusal(SinkhornExpertChoiceRouter{.tolerance = infinity}) ==
        "moxie::SinkhornExpertChoiceRouter: tolerance is inf, expected 0 to 1e6");
  CHECK(refusal(SinkhornExpertChoiceRouter{.iterations = 0}) ==
        "moxie::SinkhornExpertChoiceRouter: iterations is 0, expected >= 1");
  CHECK(refusal(SinkhornExpertChoiceRouter{.tolerance = -1}) ==
        "moxie::SinkhornExpertChoiceRouter: tolerance is -1, expected 0 to 1e6");
  CHECK(refusal(SinkhornTopKRouter{.combine_source = CombineSource::plan}) == "no error");
}
