#include <doctest/doctest.h>

#include "moxie/router/noise.hpp"
#include "moxie/router/sinkhorn_expert_choice.hpp"
#include "moxie/router/sinkhorn_top_k.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"

using namespace moxie;

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
