#include <doctest/doctest.h>

#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/testing/regularizer_laws.hpp"
#include "regularizer/evaluated.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using test::check_near;
using test::Evaluated;
using test::Given;
using testing::SparseFixture;

TEST_CASE_TEMPLATE("importance by hand", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 1e-9 + 10 * testing::tolerance<typename B::Scalar>;
  SparseFixture<B> f(backend, {.tokens = 4, .experts = 3, .choices = 1});
  f.set_probs({.5, .4, .1, .3, .3, .4, .1, .2, .7, .8, .2, 0});
  f.set_choices({0, 2, 2, 0});
  const Evaluated<B> importance(backend, Importance{.weight = 1}, f, TopKRouter{});
  CHECK(testing::near(importance.loss, 0.03875, by));
  check_near(importance.sums, {1.7, 1.1, 1.2});

  Given<B> two(backend, {0, 0, std::log(3), 0}, {}, 0, 2, 1);
  const Evaluated<B> small(backend, Importance{.weight = 1}, two.f, two.router);
  CHECK(testing::near(small.loss, 0.0625, by));
  check_near(small.d_logits, {.125, -.125, .09375, -.09375});
  const Evaluated<B> weighted(backend, Importance{.weight = 0.01}, two.f, two.router);
  CHECK(testing::near(weighted.loss, 0.000625, by));
}

TEST_CASE_TEMPLATE("load by hand", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 1e-8 + 10 * testing::tolerance<typename B::Scalar>;
  Given<B> three(backend, {.9, .06, .04, .7, .18, .12, .85, .05, .1},
                 {-.037, .026, -.018, -.074, .045, -.015, -.067, -.059, .073}, .1, 3, 2);
  CHECK(testing::near(Evaluated<B>(backend, NoisyLoad{.weight = 1}, three.f, three.router).loss,
                      .485738473, by));

  Given<B> two(backend, {1, 0}, {}, .5, 2, 1);
  const Evaluated<B> load(backend, NoisyLoad{.weight = 1}, two.f, two.router);
  CHECK(testing::near(load.loss, .83349564, by));
  check_near<typename B::Scalar>({load.sums[0], load.sums[1]}, {.5, .02275013});  // parts follow
  CHECK(testing::near(static_cast<double>(load.d_logits[0]), .72151349, by));
  CHECK(testing::near(static_cast<double>(load.d_logits[1]), -.72151349, by));
}

TEST_CASE_TEMPLATE("importance and load give the numbers of the golden vector", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const nlohmann::json v = test::read_vector("14_aux_losses");
  const nlohmann::json& wanted = v["expected"];
  const double by = sizeof(T) == sizeof(float) ? 1e-5 : 1e-10;
  const auto experts = static_cast<Index>(v["inputs"]["logits"][0].size());
  Given<B> g(backend, test::flat<double>(v["inputs"]["logits"]),
             test::flat<double>(v["inputs"]["noise"]), v["inputs"]["sigma"], experts,
             v["inputs"]["k"]);
  const auto check = [&](const std::vector<T>& got, const char* key) {
    const auto numbers = test::flat<double>(wanted[key]);
    REQUIRE(got.size() == numbers.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      CHECK(testing::near(static_cast<double>(got[i]), numbers[i], by));
  };
  const Evaluated<B> importance(backend, Importance{.weight = 1}, g.f, g.router);
  CHECK(testing::near(importance.loss, wanted["importance"], by));
  check(importance.d_logits, "d_importance");
  const Evaluated<B> load(backend, NoisyLoad{.weight = 1}, g.f, g.router);
  CHECK(testing::near(load.loss, wanted["load"], by));
  check(load.d_logits, "d_load");

  // q[s, e] shows in the sums of a batch in which s is alone.
  std::vector<T> q;
  for (Index s = 0; s < g.f.shape().tokens; ++s) {
    const auto row = [&](const char* key) {
      return test::flat<double>(v["inputs"][key][static_cast<std::size_t>(s)]);
    };
    Given<B> one(backend, row("logits"), row("noise"), v["inputs"]["sigma"], experts,
                 v["inputs"]["k"]);
    const std::vector<T> sums = Evaluated<B>(backend, NoisyLoad{}, one.f, one.router).sums;
    q.insert(q.end(), sums.begin(), sums.begin() + experts);  // the parts they are made of follow
  }
  check(q, "load_prob");
}

TEST_CASE_TEMPLATE("losses are means over groups", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 2, .experts = 2, .choices = 1, .group = 1});
  f.set_probs({1, 0, .5, .5});  // CV^2 = 1 and 0
  f.set_choices({0, 0});
  CHECK(Evaluated<B>(backend, Importance{.weight = 1}, f, TopKRouter{}).loss == 0.5);
}

TEST_CASE_TEMPLATE("load is 0 without noise, and so is its gradient", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Given<B> g(backend, {3, 1, 2, 0}, {}, 0, 2, 1);
  const Evaluated<B> load(backend, NoisyLoad{.weight = 1}, g.f, g.router);
  CHECK(load.loss == 0);
  for (const auto d : load.d_logits) CHECK(d == 0);
}

TEST_CASE_TEMPLATE("importance and load obey the Regularizer laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& regularizer, double noise_std) {
    const testing::LawReport report =
        testing::check_regularizer_laws(backend, regularizer, {.noise_std = noise_std});
    CHECK_MESSAGE(report.passed, report.message);
  };
  check(Importance{.weight = 0.7}, 1);
  check(Importance{.weight = 0.7}, 0);
  check(NoisyLoad{.weight = 0.7}, 1);
  check(NoisyLoad{.weight = 0.7}, 0);
}

namespace {

/// Counts padding and forgets half of its gradient.
struct Faulty : Importance {
  template <Backend B>
  void accumulate(B& b, const Context<B>& ctx, const SparseRouting<B>& r, Vector<B> sums) const {
    Context<B> blind = ctx;
    blind.mask = {};
    Importance::accumulate(b, blind, r, sums);
  }
  template <Backend B>
  void loss_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r, ConstVector<B> sums,
                     RoutingGradients<SparseRouting<B>>& g) const {
    Importance{.weight = weight / 2}.loss_backward(b, ctx, r, sums, g);
  }
};

}  // namespace

TEST_CASE("the Regularizer laws find a regularizer that breaks them") {
  CpuBackend<double> backend;
  const testing::LawReport report = testing::check_regularizer_laws(backend, Faulty{{.weight = 1}});
  CHECK(report.message.find("the gradient of the logits disagrees") != std::string::npos);
  CHECK(report.message.find("sums are not additive over tokens") != std::string::npos);
  CHECK(report.message.find("a masked token enters the loss") != std::string::npos);
  CHECK(report.message.find("not finite") == std::string::npos);
}
