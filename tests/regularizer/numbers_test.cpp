// Every auxiliary loss against numbers from elsewhere: worked out by hand, the golden vector, and
// what other libraries give for the same logits.
#include <doctest/doctest.h>

#include <cmath>

#include "regularizer/all_regularizers.hpp"
#include "regularizer/evaluated.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using test::check_near;
using test::Evaluated;
using test::Given;
using testing::SparseFixture;

TEST_CASE_TEMPLATE("balance, z and entropies by hand", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 1e-8 + 10 * testing::tolerance<typename B::Scalar>;
  const TopKRouter router;
  const auto loss = [&](const auto& a, SparseFixture<B>& f) {
    return Evaluated<B>(backend, a, f, router).loss;
  };

  SparseFixture<B> f(backend, {.tokens = 4, .experts = 3, .choices = 2});
  f.set_probs({.5, .4, .1, .3, .3, .4, .1, .2, .7, .8, .2, 0});
  f.set_logits({.5, .4, .1, .3, .3, .4, .1, .2, .7, .8, .2, 0});  // ranked alike
  f.set_choices({0, 1, 2, 0, 2, 1, 0, 1});
  // f = (2, 0, 2) / 4, m = (1.7, 1.1, 1.2) / 4
  CHECK(testing::near(loss(SwitchBalance{.weight = 1}, f), 1.0875, by));
  // n = (3, 3, 2), the tie of token 1 going to expert 0: 3 / (4 * 2) * (5.1 + 3.3 + 2.4) / 4
  CHECK(testing::near(loss(TopKBalance{.weight = 1}, f), 1.0125, by));

  SparseFixture<B> two(backend, {.tokens = 2, .experts = 2, .choices = 1});
  two.set_probs({1, 0, 0, 1});
  two.set_choices({0, 1});
  CHECK(loss(LocalEntropy{.weight = 1}, two) == 0);
  CHECK(testing::near(loss(GlobalEntropy{.weight = 1}, two), -std::log(2), by));
  CHECK(testing::near(loss(MutualInformation{.weight = 1}, two), -std::log(2), by));
  CHECK(testing::near(loss(ThresholdEntropy{.weight = 1}, two), 0, by));
  CHECK(testing::near(loss(ThresholdEntropy{.weight = 1, .used = 3}, two), std::log(1.5), by));

  Given<B> zeros(backend, std::vector<double>(12, 0), {}, 0, 4, 1);
  const Evaluated<B> z(backend, RouterZ{.weight = 1}, zeros.f, zeros.router);
  CHECK(testing::near(z.loss, 1.92181206, by));  // log(4)^2
  check_near(z.d_logits, std::vector<double>(12, .23104906));
}

TEST_CASE_TEMPLATE("auxiliary losses give the numbers of the golden vector", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("14_aux_losses");
  const nlohmann::json& wanted = v["expected"];
  const double by = sizeof(T) == sizeof(float) ? 1e-5 : 1e-10;
  // The vector's noise enters only its load loss (regularizer_test.cpp).
  Given<B> g(backend, test::flat<double>(v["inputs"]["logits"]), {}, 0, 4, v["inputs"]["k"]);
  const auto check = [&](const auto& a, double value, const char* gradient) {
    CAPTURE(a.name);
    const Evaluated<B> got(backend, a, g.f, g.router);
    CHECK(testing::near(got.loss, value, by));
    if (gradient == nullptr) return;
    const auto numbers = test::flat<double>(wanted[gradient]);
    REQUIRE(got.d_logits.size() == numbers.size());
    for (std::size_t i = 0; i < numbers.size(); ++i)
      CHECK(testing::near(static_cast<double>(got.d_logits[i]), numbers[i], by));
  };
  const double local = wanted["local_entropy"];
  const double global = wanted["global_entropy"];
  const double mutual = wanted["mutual_information"];
  check(Importance{.weight = 1}, wanted["importance"], "d_importance");
  check(SwitchBalance{.weight = 1}, wanted["gshard"], "d_gshard");
  check(TopKBalance{.weight = 1}, wanted["switch_topk"], "d_switch_topk");
  check(RouterZ{.weight = 1}, wanted["z"], "d_z");
  check(LocalEntropy{.weight = 1}, local, nullptr);
  check(GlobalEntropy{.weight = 1}, -global, nullptr);
  check(MutualInformation{.weight = 1}, -mutual, nullptr);
  check(ThresholdEntropy{.weight = 1}, std::log(4) - global, nullptr);
  check(ThresholdEntropy{.weight = 1, .used = 3}, 0, nullptr);  // log 3 < 1.37
}

TEST_CASE_TEMPLATE("for the same logits, losses give the numbers of other libraries", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  std::vector<double> logits;
  std::vector<double> noise;
  for (int i = 0; i < 64; ++i) {
    logits.push_back(1.5 * std::sin(.7 * i + .3));
    noise.push_back(.1 * std::cos(1.3 * i));
  }
  Given<B> g(backend, logits, noise, .25, 4, 2);
  const auto near = [&](const auto& a, double value) {
    CAPTURE(a.name);
    const double got = Evaluated<B>(backend, a, g.f, g.router).loss;
    CAPTURE(got);
    CHECK(std::fabs(got - value) < 1e-6);
  };
  // noisy gates, for the counts as for the means
  near(SwitchBalance{.weight = 1}, 1.093736);
  near(TopKBalance{.weight = 1}, .989921);
  // clean gates
  near(Importance{.weight = 1}, .023088);
  near(Importance{.weight = 1, .variation = {.unbiased = true}}, .030784);
  near(TutelImportance{.weight = 1}, .030784);
  near(RouterZ{.weight = 1}, 3.284815);
  // clean logits, or probabilities, against the 2nd largest noisy logit
  near(NoisyLoad{.weight = 1}, .033021);
  near(TutelLoad{.weight = 1}, .002391);
}

TEST_CASE_TEMPLATE("load losses see noise that is as good as none as none", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const std::vector<double> logits{1, 2, 0, -1, 0, 0, 3, 1}, noise(8, 0.0);
  const auto loss = [&](const auto& a, double deviation) {
    Given<B> g(backend, logits, noise, deviation, 4, 2);
    return Evaluated<B>(backend, a, g.f, g.router).loss;
  };
  for (const double deviation : {1e-38, 1e-40}) {  // their inverses are infinite in float
    CHECK(loss(NoisyLoad{.weight = 1}, deviation) == loss(NoisyLoad{.weight = 1}, 0));
    CHECK(loss(TutelLoad{.weight = 1}, deviation) == loss(TutelLoad{.weight = 1}, 0));
  }
}
