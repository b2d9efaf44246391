#include "moxie/router/ensemble.hpp"

#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/sigmoid.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

using namespace moxie;
using test::to_size;
using testing::SparseFixture;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {}  // namespace

TEST_CASE_TEMPLATE("WithBlocks: a row's softmax is over the experts of its member", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const WithBlocks router{EnsembleBlocks{.members = 2}, TopKRouter{.k = 1}};
  SparseFixture<B> f(backend, {.tokens = 2, .experts = 4, .choices = 1});
  const double l3 = std::log(3);
  f.set_logits({l3, 0, 100, 100, l3, 100, 0, l3});
  router.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{0, 3});
  const std::vector<double> probs{.75, .25, 0, 0, 0, 0, .25, .75};
  const auto got = f.probs();
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(testing::near(static_cast<double>(got[i]), probs[i], testing::tolerance<T>));
    if (probs[i] == 0) CHECK(got[i] == 0);
  }
}

TEST_CASE_TEMPLATE("WithBlocks gives what the router gives that sees a block alone", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  Draw draw(3);
  const auto same = [&](const auto& router) {
    for (int number = 0; number < 50; ++number) {
      const Index members = draw.from(1, 4);
      const Index rows = draw.from(1, 3);
      const Index size = draw.from(2, 5);
      const Index first = draw.from(0, 9);
      const Index experts = members * size;
      constexpr Index tokens = 12;
      const WithBlocks blocks{EnsembleBlocks{.members = members, .rows = rows}, router};
      blocks.check(experts);
      SparseFixture<B> f(backend, {.tokens = tokens, .experts = experts, .choices = 2});
      std::vector<double> logits = draw.normals(tokens * experts);
      if (number % 2 == 0)
        for (double& v : logits) v = std::round(v);
      f.set_logits(logits);
      f.context.first_token = first;
      blocks.route(backend, f.context, f.routing);
      SparseFixture<B> alone(backend, {.tokens = tokens, .experts = size, .choices = 2});
      std::vector<double> own;
      Ints wanted;
      for (Index t = 0; t < tokens; ++t) {
        const Index member = (first + t) / rows % members;
        for (Index e = 0; e < size; ++e)
          own.push_back(logits[to_size(t * experts + member * size + e)]);
      }
      alone.set_logits(own);
      router.route(backend, alone.context, alone.routing);
      for (Index t = 0; t < tokens; ++t)
        for (Index k = 0; k < 2; ++k)
          wanted.push_back(alone.choices()[to_size(t * 2 + k)] +
                           static_cast<std::int32_t>((first + t) / rows % members * size));
      CHECK(f.choices() == wanted);
      CHECK(testing::detail::all_near(f.weights(), alone.weights(), testing::tolerance<T>));
    }
  };
  same(TopKRouter{.k = 2});
  same(SigmoidTopKRouter{.k = 2});
}

TEST_CASE_TEMPLATE("WithBlocks of one member is the router itself, with its laws", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto report = testing::check_router_laws(
      backend, WithBlocks{EnsembleBlocks{}, WithNoise{GaussianNoise{.std = 1}, TopKRouter{.k = 2}}},
      {.cases = 300});
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE_TEMPLATE("WithBlocks: noise stays inside the block, and has a block's deviation", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr Index tokens = 3000;
  const double s = 0.7;
  const WithBlocks router{EnsembleBlocks{.members = 2},
                          WithNoise{GaussianNoise{.std = 2 * s}, TopKRouter{.k = 1}}};
  SparseFixture<B> f(backend, {.tokens = tokens, .experts = 6, .choices = 1}, {.noisy = true});
  f.set_logits(std::vector<double>(to_size(tokens * 6), 0));
  router.route(backend, f.context, f.routing);
  CHECK(f.routing.noise_std == doctest::Approx(s / 3));
  const Ints choice = f.choices();
  for (Index t = 0; t < tokens; ++t) CHECK(choice[to_size(t)] / 3 == t % 2);
  const auto noisy = f.noisy_logits();
  double squares = 0;
  for (Index t = 0; t < tokens; ++t)
    for (Index e = 0; e < 3; ++e)
      squares +=
          std::pow(static_cast<double>(noisy[to_size(t * 6 + t % 2 * 3 + e)]), 2) / (3 * tokens);
  CHECK(std::sqrt(squares) == doctest::Approx(s / 3).epsilon(0.03));
}

TEST_CASE_TEMPLATE("WithBlocks: noise outside the blocks is noise inside them", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const EnsembleBlocks blocks{.members = 2};
  for (const double std : {0.0, 1.0}) {
    const GaussianNoise noise{.std = std};
    const WithNoise outside{noise, WithBlocks{blocks, TopKRouter{.k = 1}}};
    const WithBlocks inside{blocks, WithNoise{noise, TopKRouter{.k = 1}}};
    SparseFixture<B> f(backend, {.tokens = 40, .experts = 4, .choices = 1}, {.noisy = true});
    SparseFixture<B> g(backend, {.tokens = 40, .experts = 4, .choices = 1}, {.noisy = true});
    for (SparseFixture<B>* fixture : {&f, &g}) fixture->set_logits(Draw(5).normals(160));
    outside.route(backend, f.context, f.routing);
    inside.route(backend, g.context, g.routing);
    for (Index t = 0; t < 40; ++t) CHECK(f.choices()[to_size(t)] / 2 == t % 2);
    CHECK(f.choices() == g.choices());
    CHECK(f.weights() == g.weights());
    CHECK(f.noisy_probs() == g.noisy_probs());
    CHECK(f.noisy_logits() == g.noisy_logits());
    CHECK(f.probs() == g.probs());
  }
}

TEST_CASE("WithBlocks: a layer's gradients agree") {
  using B = CpuBackend<double>;
  B backend;
  const MoeLayer layer{
      backend,
      MoeShape{.width = 4, .experts = 6, .seed = 1},
      WithBlocks{EnsembleBlocks{.members = 3}, WithNoise{GaussianNoise{}, TopKRouter{.k = 1}}},
      Dropless{},
      FeedForward<Gelu>{.hidden = 5},
      Importance{.weight = 0.3}};
  const auto report = testing::check_gradients(layer, 6);
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE("EnsembleBlocks refuses what makes no sense") {
  const auto text = [](const auto& router) -> std::string {
    try {
      router.check(6);
    } catch (const config_error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(text(WithBlocks{EnsembleBlocks{.members = 4}, TopKRouter{}}) ==
        "moxie::EnsembleBlocks: members is 4, expected a divisor of 6 (the number of experts)");
  CHECK(text(WithBlocks{EnsembleBlocks{.members = 0}, TopKRouter{}}) ==
        "moxie::EnsembleBlocks: members is 0, expected a divisor of 6 (the number of experts)");
  CHECK(text(WithBlocks{EnsembleBlocks{.members = 2, .rows = 0}, TopKRouter{}}) ==
        "moxie::EnsembleBlocks: rows is 0, expected >= 1");
  CHECK(text(WithBlocks{EnsembleBlocks{.members = 3}, TopKRouter{.k = 3}}) ==
        "moxie::TopKRouter: k is 3, expected 1 to 2 (the number of experts)");
  CHECK(
      text(WithBlocks{EnsembleBlocks{.members = 3}, SigmoidTopKRouter{.expert_groups = 2}}) ==
      "moxie::EnsembleBlocks: the router's expert_groups is 2, expected 1: its groups are not the "
      "blocks");
}
