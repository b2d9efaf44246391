#include "moxie/routing/statistics.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "moxie/capacity/dropless.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/router/sparse_expert_choice.hpp"
#include "moxie/router/sparse_top_k.hpp"
#include "moxie/testing/capacity_laws.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"
#include "support/buffer.hpp"
#include "support/errors.hpp"

using namespace moxie;

namespace {

template <class B>
RoutingStatistics of(B& backend, testing::SparseFixture<B>& f) {
  RoutingTelemetry<B> telemetry(backend);
  telemetry.begin_pass();
  telemetry.sparse(f.routing);
  return telemetry.read().at(0);
}

}  // namespace

TEST_CASE_TEMPLATE("routing statistics of a hand-made routing", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend,
                              {.tokens = 4, .experts = 4, .choices = 1, .group = 4, .capacity = 2});
  f.set_mode(Mode::eval);
  f.set_probs({0.7, 0.1, 0.1, 0.1, 0.5, 0.5, 0, 0, 0.25, 0.25, 0.25, 0.25, 1, 0, 0, 0});
  f.set_choices({0, 0, 0, 1});
  f.assign(Dropless{});  // with the shape's capacity: the third token of expert 0 is dropped
  const RoutingStatistics s = of(backend, f);
  const double by = testing::tolerance<typename B::Scalar>;
  CHECK(s.tokens == 4);
  CHECK(s.selected == std::vector<double>{3, 1, 0, 0});
  CHECK(s.kept == std::vector<double>{2, 1, 0, 0});
  CHECK(s.dead_experts() == 2);
  CHECK(s.drop_rate() == doctest::Approx(0.25));
  CHECK(s.experts_per_token() == doctest::Approx(0.75));
  CHECK(s.unrouted == doctest::Approx(0.25));
  CHECK(s.max_violation() == doctest::Approx(2));
  CHECK(s.coefficient_of_variation() == doctest::Approx(std::sqrt(1.5)));
  const double first = -(0.7 * std::log(0.7) + 0.3 * std::log(0.1));
  CHECK(s.gate_entropy ==
        doctest::Approx((first + std::log(2.0) + std::log(4.0)) / 4).epsilon(10 * by));
  // 0.7 - 0.1, 0.5 - 0.5, 0.25 - 0.25, and a token that chose expert 1 though 0 is the best
  CHECK(s.margin == doctest::Approx((0.6 + 0 + 0 - 1) / 4).epsilon(10 * by));
}

TEST_CASE_TEMPLATE("padding enters no statistic", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 3, .experts = 2, .choices = 1});
  f.set_mode(Mode::eval);
  f.set_probs({0.75, 0.25, 0.5, 0.5, 0.25, 0.75});
  f.set_choices({0, -1, 1});
  f.set_mask({1, 0, 1});
  f.routing.mask = f.context.mask;
  f.assign(Dropless{});
  const RoutingStatistics s = of(backend, f);
  CHECK(s.tokens == 2);
  CHECK(s.selected == std::vector<double>{1, 1});
  CHECK(s.margin == doctest::Approx(0.5));
  CHECK(s.unrouted == 0);
  CHECK(s.coefficient_of_variation() == 0);
}

TEST_CASE_TEMPLATE("telemetry adds up passes and forgets when reset", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> small(backend, {.tokens = 1, .experts = 2, .choices = 1});
  testing::SparseFixture<B> large(backend, {.tokens = 700, .experts = 2, .choices = 1});
  RoutingTelemetry<B> telemetry(backend);
  for (testing::SparseFixture<B>* f : {&small, &large}) {
    const auto n = static_cast<std::size_t>(f->shape().tokens);
    f->set_mode(Mode::eval);
    f->set_probs(std::vector<double>(2 * n, 0.5));
    f->set_choices(std::vector<std::int32_t>(n, 1));
    f->assign(Dropless{});
    telemetry.begin_pass();
    telemetry.sparse(f->routing);
  }
  CHECK(telemetry.read().size() == 1);
  CHECK(telemetry.read()[0].tokens == 701);
  CHECK(telemetry.read()[0].selected == std::vector<double>{0, 701});
  CHECK(telemetry.read()[0].gate_entropy ==
        doctest::Approx(std::log(2.0)).epsilon(10 * testing::tolerance<typename B::Scalar>));
  telemetry.reset();
  CHECK(telemetry.read().at(0).tokens == 0);
  CHECK(telemetry.read().at(0).gate_entropy == 0);
}

TEST_CASE_TEMPLATE("the margin is of what selection saw, its bias included", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> f(backend, {.tokens = 2, .experts = 3, .choices = 1});
  f.set_mode(Mode::eval);
  f.set_probs({0.5, 0.25, 0.25, 0.25, 0.625, 0.125});
  f.set_choices({2, 1});
  f.assign(Dropless{});
  CHECK(of(backend, f).margin == doctest::Approx((0.25 - 0.5 + 0.625 - 0.25) / 2));
  const test::Buffer<T, B> bias(backend, std::vector<T>{T(0), T(0), T(0.5)});
  f.routing.bias = bias.view();  // 0.5, 0.25, 0.75 and 0.25, 0.625, 0.625
  CHECK(of(backend, f).margin == doctest::Approx((0.75 - 0.5 + 0) / 2));
}

TEST_CASE_TEMPLATE("entropy and margin of any number of experts are those of plain loops", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  testing::detail::Draw draw(2);
  constexpr Index tokens = 70;  // more than one chunk
  const double by = 100 * testing::tolerance<T>;
  for (Index experts = 1; experts <= 40; ++experts) {
    CAPTURE(experts);
    const Index k = draw.from(1, experts < 4 ? experts : 4);
    testing::SparseFixture<B> f(backend, {.tokens = tokens, .experts = experts, .choices = k});
    f.set_mode(Mode::eval);
    std::vector<double> probs = draw.normals(tokens * experts);
    for (double& p : probs) p = std::fabs(p) < 0.3 ? 0 : std::fabs(p);
    f.set_probs(probs);
    const auto choice = testing::detail::draw_choices(draw, tokens, experts, k, {});
    f.set_choices(choice);
    f.assign(Dropless{});
    double entropy = 0;
    double margin = 0;
    double measured = 0;
    for (Index t = 0; t < tokens; ++t) {
      const double* p = probs.data() + t * experts;
      const double sum = std::accumulate(p, p + experts, 0.0);
      for (Index e = 0; e < experts; ++e)
        if (p[e] > 0) entropy -= p[e] / sum * std::log(p[e] / sum) / tokens;
      double least = 1e9;
      double best = -1;
      Index chosen = 0;
      for (Index e = 0; e < experts; ++e) {
        const auto* own = choice.data() + t * k;
        if (std::find(own, own + k, static_cast<std::int32_t>(e)) == own + k) {
          best = std::fmax(best, p[e]);
        } else {
          least = std::fmin(least, p[e]);
          ++chosen;
        }
      }
      if (chosen == 0 || chosen == experts) continue;
      margin += least - best;
      ++measured;
    }
    const RoutingStatistics s = of(backend, f);
    CHECK(testing::near(s.gate_entropy, entropy, by));
    CHECK(testing::near(s.margin, measured > 0 ? margin / measured : 0, by));
  }
}

TEST_CASE_TEMPLATE("the marginal error is that of the marginal which a plan does not keep", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto worst = [&](const auto& router, Index capacity, Mode mode, bool tokens) {
    RoutingShape s{.tokens = 8, .experts = 2, .choices = 1, .group = 4, .capacity = capacity};
    s.assignments = router.assignments(s);
    testing::SparseFixture<B> f(backend, s, routing_traits(router, backend, s));
    f.set_mode(mode);
    f.set_logits(testing::detail::Draw(1).normals(16));
    router.route(backend, f.context, f.routing);
    if (!f.routing.first) f.assign(Dropless{});
    const auto plan = f.plan();
    double sum = 0;
    for (std::size_t g = 0; g < 2; ++g) {
      double most = 0;
      const auto entry = [&](std::size_t t, std::size_t e) {
        return static_cast<double>(plan[8 * g + 2 * t + e]);
      };
      for (std::size_t t = 0; tokens && t < 4; ++t)
        most = std::fmax(most, std::fabs(entry(t, 0) + entry(t, 1) - 1));
      for (std::size_t e = 0; !tokens && e < 2; ++e) {
        const double load = entry(0, e) + entry(1, e) + entry(2, e) + entry(3, e);
        most = std::fmax(most, std::fabs(load - 2) / 2);
      }
      sum += most / 2;
    }
    return std::pair{of(backend, f).marginal_error, sum};
  };
  const auto check = [](std::pair<double, double> error) {
    CHECK(error.second > 0.01);
    CHECK(error.first == doctest::Approx(error.second).epsilon(1e-5));
  };
  check(worst(SparseExpertChoiceRouter{}, 2, Mode::train, true));
  check(worst(SparseTopKRouter{.k = 1}, 4, Mode::train, false));
  const SinkhornTopKRouter single{.iterations = 1, .plan_at_eval = false};
  check(worst(single, 4, Mode::train, false));
  CHECK(worst(single, 4, Mode::eval, false).first == 0);  // no plan
}

TEST_CASE_TEMPLATE("telemetry refuses a layer with other experts than before", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  testing::SparseFixture<B> small(backend, {.tokens = 1, .experts = 2, .choices = 1});
  testing::SparseFixture<B> large(backend, {.tokens = 1, .experts = 64, .choices = 1});
  small.set_probs({0.5, 0.5});
  large.set_probs(std::vector<double>(64, 1.0 / 64));
  for (testing::SparseFixture<B>* f : {&small, &large}) {
    f->set_mode(Mode::eval);
    f->set_choices({1});
    f->assign(Dropless{});
  }
  RoutingTelemetry<B> telemetry(backend);
  telemetry.begin_pass();
  telemetry.sparse(large.routing);
  telemetry.sparse(small.routing);  // another layer
  telemetry.begin_pass();
  telemetry.sparse(large.routing);
  CHECK(test::message_of<config_error>([&] { telemetry.sparse(large.routing); }) ==
        "moxie::RoutingTelemetry: MoE layer 1 of the pass has 64 experts, expected 2 as before "
        "(each model needs telemetry of its own)");
  CHECK(telemetry.read().size() == 2);
  CHECK(telemetry.read()[0].tokens == 2);
  CHECK(telemetry.read()[1].selected == std::vector<double>{0, 1});
}

TEST_CASE_TEMPLATE("soft routing reports the mass of each expert", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  test::Buffer<typename B::Scalar, B> probs(backend, {0.75, 0.25, 0.5, 0.5});
  SoftRouting<B> r;
  r.shape = {.tokens = 2, .experts = 2, .choices = 1, .group = 2, .capacity = 1, .rows = 2};
  r.probs = probs.view(2, 2);
  RoutingTelemetry<B> telemetry(backend);
  telemetry.begin_pass();
  telemetry.soft(r);
  const RoutingStatistics s = telemetry.read().at(0);
  CHECK(s.selected[0] == doctest::Approx(1.25));
  CHECK(s.drop_rate() == 0);
  CHECK(s.experts_per_token() == doctest::Approx(1));
  CHECK(s.max_violation() == doctest::Approx(0.25));
}

TEST_CASE("the logarithm of a probability is that of the library") {
  for (int i = 1; i <= 200000; ++i) {
    const float p = static_cast<float>(i) / 200000.0F;
    CHECK(std::fabs(detail::log_probability(p) - std::log(p)) <=
          2e-7F * std::fmax(1.0F, std::fabs(std::log(p))));
  }
  for (float p = 1; p > 1.2e-38F; p *= 0.71F)
    CHECK(std::fabs(detail::log_probability(p) - std::log(p)) <=
          2e-7F * std::fmax(1.0F, -std::log(p)));
  CHECK(detail::log_probability(0.0F) == 0);
  CHECK(detail::log_probability(1e-40F) == 0);
  CHECK(detail::log_probability(0.0) == 0);
}
