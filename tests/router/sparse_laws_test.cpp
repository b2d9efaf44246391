#include <doctest/doctest.h>

#include "moxie/router/noise.hpp"
#include "moxie/router/sparse_expert_choice.hpp"
#include "moxie/router/sparse_top_k.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"

using namespace moxie;

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
