#include <doctest/doctest.h>

#include "moxie/testing/regularizer_laws.hpp"
#include "regularizer/all_regularizers.hpp"
#include "regularizer/evaluated.hpp"

using namespace moxie;
using test::Evaluated;
using test::Given;

TEST_CASE_TEMPLATE("every regularizer obeys the Regularizer laws, with noise and without", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  test::for_each_regularizer(0.7, [&](const auto& regularizer) {
    for (const double noise_std : {1.0, 0.0}) {
      const testing::LawReport report = testing::check_regularizer_laws(
          backend, regularizer, {.cases = 40, .noise_std = noise_std});
      CHECK_MESSAGE(report.passed, regularizer.name, ": ", report.message);
    }
  });
}

TEST_CASE_TEMPLATE("one expert, all experts chosen, one token: regularizers stay finite", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  test::for_each_regularizer(1, [&](const auto& regularizer) {
    CAPTURE(regularizer.name);
    const auto check = [&](const std::vector<double>& logits, const std::vector<double>& noise,
                           Index experts, Index k) {
      Given<B> g(backend, logits, noise, .5, experts, k);
      const Evaluated<B> e(backend, regularizer, g.f, g.router);
      CHECK(math::is_finite(e.loss));
      for (const auto d : e.d_logits) CHECK(math::is_finite(d));
    };
    check({.3, -.2, 1}, {.1, .2, .3}, 1, 1);
    check({.3, -.2, 1}, {.1, .2, .3}, 3, 3);
    check({.3, -.2, 1}, {.1, .2, .3}, 3, 1);
    check({.3}, {.1}, 1, 1);
  });
}

TEST_CASE_TEMPLATE("one expert is balanced, sure and used", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Given<B> g(backend, {.3, -.2, 1}, {.1, .2, .3}, .5, 1, 1);
  const auto loss = [&](const auto& a) { return Evaluated<B>(backend, a, g.f, g.router).loss; };
  CHECK(loss(SwitchBalance{.weight = 1}) == doctest::Approx(1));
  CHECK(loss(TopKBalance{.weight = 1}) == doctest::Approx(1));
  CHECK(loss(Importance{.weight = 1}) == 0);
  CHECK(loss(TutelImportance{.weight = 1}) == 0);
  CHECK(loss(TutelLoad{.weight = 1}) == 0);
  CHECK(loss(LocalEntropy{.weight = 1}) == 0);
  CHECK(loss(ThresholdEntropy{.weight = 1}) == 0);
}
