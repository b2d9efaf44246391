// What every kind of noise obeys, and the distribution of GumbelNoise.
#include "moxie/router/noise.hpp"

#include "moxie/router/gumbel_noise.hpp"
#include "moxie/router/sigmoid.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

namespace noise_test {

using namespace moxie;
using test::to_size;
using testing::SparseFixture;

namespace {

struct Where {
  Index tokens = 6, first = 0, layer = 0, experts = 3;
  std::uint64_t seed = 1, step = 2;
  Mode mode = Mode::train;
};
template <class B, class Noise>
auto noise_of(B& backend, const Noise& noise, const Where& w, double* std_dev = nullptr) {
  const WithNoise router{noise, TopKRouter{.k = 1}};
  SparseFixture<B> f(backend, {.tokens = w.tokens, .experts = w.experts, .choices = 1},
                     {.noisy = true});
  f.set_mode(w.mode);
  f.context.first_token = w.first;
  f.context.seed = w.seed;
  f.context.step = w.step;
  f.context.layer = w.layer;
  f.set_logits(std::vector<double>(to_size(w.tokens * w.experts), 0));
  router.route(backend, f.context, f.routing);
  if (std_dev != nullptr) *std_dev = f.routing.noise_std;
  return f.noisy_logits();
}
template <class B, class Noise>
void check_noise_laws(const Noise& noise) {
  B backend = test::make_backend<B>();
  const auto all = noise_of(backend, noise, {});
  CHECK(noise_of(backend, noise, {}) == all);
  CHECK(noise_of(backend, noise, {.step = 3}) != all);
  CHECK(noise_of(backend, noise, {.seed = 2}) != all);
  CHECK(noise_of(backend, noise, {.layer = 1}) != all);
  const auto head = noise_of(backend, noise, {.tokens = 2});
  const auto tail = noise_of(backend, noise, {.tokens = 4, .first = 2});
  CHECK(std::vector(all.begin(), all.begin() + 6) == head);
  CHECK(std::vector(all.begin() + 6, all.end()) == tail);
  double std_dev = -1;
  for (const auto v : noise_of(backend, noise, {.mode = Mode::eval}, &std_dev)) CHECK(v == 0);
  CHECK(std_dev == 0);
  const auto many = noise_of(backend, noise, {.tokens = 20000}, &std_dev);
  double sum = 0;
  double squares = 0;
  for (const auto v : many) {
    sum += static_cast<double>(v) / 60000;
    squares += static_cast<double>(v) * static_cast<double>(v) / 60000;
  }
  CHECK(std::sqrt(squares - sum * sum) == doctest::Approx(std_dev).epsilon(0.02));
}

}  // namespace

TEST_CASE_TEMPLATE(
    "noise is fresh for each step, a function of the global token, none in evaluation", B,
    MOXIE_TEST_BACKENDS) {
  check_noise_laws<B>(GaussianNoise{.std = 2});
  check_noise_laws<B>(GaussianNoise{.std = 2, .per_expert = false});
  check_noise_laws<B>(GumbelNoise{});
  check_noise_laws<B>(GumbelNoise{.scale = 0.5});
}

TEST_CASE_TEMPLATE("an expert's noise does not depend on how many experts there are", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const GaussianNoise noise{.std = 1, .per_expert = false};
  const auto many = noise_of(backend, noise, {.tokens = 7, .experts = 9});
  for (const Index experts : {1, 2, 3, 4, 5, 8}) {
    const auto few = noise_of(backend, noise, {.tokens = 7, .experts = experts});
    for (Index t = 0; t < 7; ++t)
      for (Index e = 0; e < experts; ++e)
        CHECK(few[to_size(t * experts + e)] == many[to_size(t * 9 + e)]);
  }
}

TEST_CASE("noise has the same bits on every level and backend") {
  const Where where{.tokens = 40, .experts = 13};
  const auto check = [&](const auto& noise) {
    CpuBackend<float> baseline({.level = Level::baseline});
    const auto wanted = noise_of(baseline, noise, where);
    for (const Level level : {Level::avx2, Level::avx512}) {
      if (level > machine_level()) continue;
      CpuBackend<float> cpu({.level = level});
      CHECK(noise_of(cpu, noise, where) == wanted);
    }
    CpuBackend<double> wide;
    const auto in_double = noise_of(wide, noise, where);
    for (std::size_t i = 0; i < wanted.size(); ++i)
      CHECK(wanted[i] == static_cast<float>(in_double[i]));
#if defined(MOXIE_TEST_THRUST)
    ThrustHostBackend<float> thrust;
    CHECK(noise_of(thrust, noise, where) == wanted);
#endif
  };
  check(GaussianNoise{});
  check(GumbelNoise{});
}

TEST_CASE_TEMPLATE("GumbelNoise makes the best expert a draw from the softmax", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr Index tokens = 20000;
  const WithNoise router{GumbelNoise{}, TopKRouter{.k = 1}};
  SparseFixture<B> f(backend, {.tokens = tokens, .experts = 3, .choices = 1}, {.noisy = true});
  std::vector<double> logits;
  for (Index t = 0; t < tokens; ++t)
    for (const double p : {.2, .5, .3}) logits.push_back(std::log(p));
  f.set_logits(logits);
  router.route(backend, f.context, f.routing);
  std::vector<double> share(3, 0);
  for (const std::int32_t e : f.choices()) share[to_size(e)] += 1.0 / tokens;
  CHECK(share[0] == doctest::Approx(.2).epsilon(0.03));
  CHECK(share[1] == doctest::Approx(.5).epsilon(0.03));
  CHECK(share[2] == doctest::Approx(.3).epsilon(0.03));
}

TEST_CASE_TEMPLATE("WithNoise and GumbelNoise obey the Router laws", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto report =
      testing::check_router_laws(backend, WithNoise{GumbelNoise{}, TopKRouter{.k = 2}});
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE("GumbelNoise refuses a negative scale") {
  CpuBackend<double> backend;
  CHECK_THROWS_WITH_AS((noise_of(backend, GumbelNoise{.scale = -1}, {})),
                       "moxie::GumbelNoise: scale is -1, expected 0 to 1e30", config_error);
}

}  // namespace noise_test
