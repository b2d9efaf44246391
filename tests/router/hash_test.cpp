// Routers that do not look at the tokens: HashRouter, UniformRouter.
#include "moxie/router/hash.hpp"

#include <set>

#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/regularizer/switch_balance.hpp"
#include "moxie/router/noise.hpp"
#include "moxie/router/uniform.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/sparse_fixture.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

using namespace moxie;
using test::to_size;
using testing::SparseFixture;
using testing::detail::Draw;
using Ints = std::vector<std::int32_t>;

namespace {

struct Where {
  Index tokens = 12, experts = 5, first = 0, layer = 0;
  std::uint64_t seed = 0, step = 0;
  Mode mode = Mode::train;
  Ints mask{};
};
template <class B, class R>
Ints choices(B& backend, const R& router, const Where& w) {
  SparseFixture<B> f(
      backend, {.tokens = w.tokens, .experts = w.experts, .choices = router.choices(w.experts)});
  f.set_mode(w.mode);
  f.context.seed = w.seed;
  f.context.step = w.step;
  f.context.layer = w.layer;
  f.context.first_token = w.first;
  f.set_mask(w.mask);
  f.set_logits(Draw(static_cast<std::uint64_t>(w.first) + 1).normals(w.tokens * w.experts));
  router.route(backend, f.context, f.routing);
  const auto k = static_cast<double>(router.choices(w.experts));
  const Ints out = f.choices();
  const auto weight = f.weights();
  for (std::size_t a = 0; a < out.size(); ++a)
    CHECK(static_cast<double>(weight[a]) == doctest::Approx(out[a] < 0 ? 0 : 1 / k).epsilon(1e-6));
  return out;
}
template <class B, class R>
void check_common_laws(const R& router) {
  B backend = test::make_backend<B>();
  const Index k = router.k;
  for (const Index experts : {k, Index{5}, Index{8}}) {
    const Ints all = choices(backend, router, {.experts = experts});
    REQUIRE(all.size() == to_size(12 * k));
    for (Index t = 0; t < 12; ++t) {
      std::set<std::int32_t> own(all.begin() + t * k, all.begin() + (t + 1) * k);
      CHECK(own.size() == to_size(k));
      CHECK(*own.begin() >= 0);
      CHECK(*own.rbegin() < experts);
    }
    // Global token numbers decide, not the split, the seed, the step or the mode.
    Ints parts = choices(backend, router, {.tokens = 5, .experts = experts});
    for (const std::int32_t e :
         choices(backend, router, {.tokens = 7, .experts = experts, .first = 5}))
      parts.push_back(e);
    CHECK(parts == all);
    CHECK(choices(backend, router,
                  {.experts = experts, .seed = 3, .step = 4, .mode = Mode::eval}) == all);
    const Ints masked = choices(backend, router,
                                {.experts = experts, .mask = {1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0}});
    for (Index a = 0; a < 12 * k; ++a) {
      const bool padding = a / k == 1 || a / k == 4 || a / k == 11;
      CHECK(masked[to_size(a)] == (padding ? -1 : all[to_size(a)]));
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("HashRouter: distinct experts of a token's number, padding gets none", B,
                   MOXIE_TEST_BACKENDS) {
  for (const Index k : {1, 2, 5}) check_common_laws<B>(HashRouter{.k = k});
  check_common_laws<B>(HashRouter{.k = 3, .period = 4, .seed = 7});
}

TEST_CASE_TEMPLATE("HashRouter: seeds and layers differ, images do not", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const Ints all = choices(backend, HashRouter{.k = 2}, {});
  CHECK(choices(backend, HashRouter{.k = 2, .seed = 1}, {}) != all);
  CHECK(choices(backend, HashRouter{.k = 2}, {.layer = 1}) != all);
  const Ints images = choices(backend, HashRouter{.k = 2, .period = 4}, {});
  for (std::size_t a = 0; a < 16; ++a) CHECK(images[a] == images[a + 8]);
  CHECK(Ints(images.begin(), images.begin() + 8) == Ints(all.begin(), all.begin() + 8));
}

TEST_CASE("HashRouter: every pair of experts is alike likely") {
  CpuBackend<double> backend;
  constexpr Index tokens = 12000;
  const Ints all = choices(backend, HashRouter{.k = 2}, {.tokens = tokens, .experts = 4});
  std::vector<double> pairs(16, 0);
  for (Index t = 0; t < tokens; ++t)
    pairs[to_size(all[to_size(2 * t)] * 4 + all[to_size(2 * t + 1)])] += 12.0 / tokens;
  for (std::size_t p = 0; p < 16; ++p)
    CHECK(pairs[p] == doctest::Approx(p % 5 == 0 ? 0 : 1).epsilon(0.1));
}

TEST_CASE_TEMPLATE("UniformRouter deals experts out in turn", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  for (const Index k : {1, 2, 5}) check_common_laws<B>(UniformRouter{.k = k});
  CHECK(choices(backend, UniformRouter{.k = 2}, {.tokens = 3, .experts = 4}) ==
        Ints{0, 1, 2, 3, 0, 1});
  const Ints all = choices(backend, UniformRouter{.k = 3}, {.tokens = 16, .experts = 8});
  Ints load(8, 0);
  for (const std::int32_t e : all) ++load[to_size(e)];
  CHECK(load == Ints(8, 6));
}

TEST_CASE("routers without scores: a layer's gradients agree, and only UniformRouter has a gate") {
  using B = CpuBackend<double>;
  B backend;
  const MoeShape shape{.width = 4, .experts = 3, .seed = 1};
  const FeedForward<Gelu> expert{.hidden = 5};
  const MoeLayer hash{backend, shape, HashRouter{.k = 2}, Dropless{}, expert};
  const MoeLayer uniform{backend, shape, UniformRouter{.k = 2}, Dropless{}, expert};
  const auto hash_report = testing::check_gradients(hash, 6);
  CHECK_MESSAGE(hash_report.passed, hash_report.message);
  const auto uniform_report = testing::check_gradients(uniform, 6);
  CHECK_MESSAGE(uniform_report.passed, uniform_report.message);
  CHECK(hash.parameters().entries().size() + 1 == uniform.parameters().entries().size());
}

TEST_CASE_TEMPLATE("routers without scores: noise reaches the losses alone", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& router) {
    const WithNoise noisy{GaussianNoise{.std = 3}, router};
    SparseFixture<B> f(backend, {.tokens = 6, .experts = 3, .choices = 2}, {.noisy = true});
    SparseFixture<B> plain(backend, {.tokens = 6, .experts = 3, .choices = 2});
    for (SparseFixture<B>* fixture : {&f, &plain}) fixture->set_logits(Draw(1).normals(18));
    noisy.route(backend, f.context, f.routing);
    router.route(backend, plain.context, plain.routing);
    CHECK(f.choices() == plain.choices());
    CHECK(f.probs() == plain.probs());
    const auto moved = f.noisy_logits();
    plain.set_logits({moved.begin(), moved.end()});
    router.route(backend, plain.context, plain.routing);
    CHECK(f.noisy_probs() == plain.probs());
  };
  check(HashRouter{.k = 2});
  check(UniformRouter{.k = 2});
}

TEST_CASE("routers without scores: losses on noisy probabilities have their gradients") {
  using B = CpuBackend<double>;
  B backend;
  const MoeLayer layer{backend,
                       MoeShape{.width = 4, .experts = 3, .seed = 1},
                       WithNoise{GaussianNoise{.std = 3}, UniformRouter{.k = 2}},
                       Dropless{},
                       FeedForward<Gelu>{.hidden = 5},
                       SwitchBalance{.weight = 0.5}};
  const auto report = testing::check_gradients(layer, 6);
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE("HashRouter and UniformRouter refuse hyper-parameters that make no sense") {
  CHECK_THROWS_WITH_AS(HashRouter{.k = 5}.check(4),
                       "moxie::HashRouter: k is 5, expected 1 to 4 (the number of experts)",
                       config_error);
  CHECK_THROWS_WITH_AS((HashRouter{.period = -1}.check(4)),
                       "moxie::HashRouter: period is -1, expected >= 0 (0 = none)", config_error);
  CHECK_THROWS_WITH_AS(UniformRouter{.k = 0}.check(4),
                       "moxie::UniformRouter: k is 0, expected 1 to 4 (the number of experts)",
                       config_error);
}
