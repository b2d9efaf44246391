#include <doctest/doctest.h>

#include "moxie/router/noise.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/router_laws.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

using namespace moxie;
using test::check_near;
using testing::SparseFixture;
using Ints = std::vector<std::int32_t>;

namespace {

template <class B, class R>
void check_laws(const R& router) {
  B backend = test::make_backend<B>();
  const testing::LawReport report = testing::check_router_laws(backend, router);
  CHECK_MESSAGE(report.passed, report.message);
}

}  // namespace

TEST_CASE_TEMPLATE("TopKRouter takes the k most probable experts, with their probabilities", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 2, .experts = 4, .choices = 2});
  // softmax of log(p) is p
  f.set_logits({std::log(.1), std::log(.4), std::log(.3), std::log(.2),  //
                std::log(.5), std::log(.25), std::log(.125), std::log(.125)});
  TopKRouter{.k = 2}.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{1, 2, 0, 1});
  check_near(f.weights(), {.4, .3, .5, .25});
  check_near(f.probs(), {.1, .4, .3, .2, .5, .25, .125, .125});
}

TEST_CASE_TEMPLATE("TopKRouter gives a tie to the lower expert", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 2, .experts = 4, .choices = 2});
  f.set_logits({1, 1, 1, 1, 0, 3, -0.0, 3});
  TopKRouter{.k = 2, .renormalize = true}.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{0, 1, 1, 3});
  check_near(f.weights(), {.5, .5, .5, .5});
}

TEST_CASE_TEMPLATE("TopKRouter with k = E sorts the experts, and one expert gets all weight", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> all(backend, {.tokens = 1, .experts = 4, .choices = 4});
  all.set_logits({0, 2, -1, 2});
  TopKRouter{.k = 4}.route(backend, all.context, all.routing);
  CHECK(all.choices() == Ints{1, 3, 0, 2});
  double sum = 0;
  for (const auto w : all.weights()) sum += static_cast<double>(w);
  CHECK(sum == doctest::Approx(1));

  SparseFixture<B> one(backend, {.tokens = 3, .experts = 1, .choices = 1});
  one.set_logits({-5, 0, 1000});
  TopKRouter{.k = 1}.route(backend, one.context, one.routing);
  CHECK(one.choices() == Ints{0, 0, 0});
  check_near(one.weights(), {1, 1, 1});
}

TEST_CASE_TEMPLATE("renormalize divides by the sum over the selected", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 1, .experts = 3, .choices = 2});
  f.set_logits({std::log(.2), std::log(.6), std::log(.2)});
  TopKRouter{.k = 2, .renormalize = true}.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{1, 0});
  check_near(f.weights(), {.75, .25});
}

TEST_CASE_TEMPLATE("masked tokens get no expert and no weight", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 3, .experts = 2, .choices = 1});
  f.set_logits({0, 1, 0, 1, 0, 1});
  f.set_mask({1, 0, 5});
  TopKRouter{.k = 1}.route(backend, f.context, f.routing);
  CHECK(f.choices() == Ints{1, -1, 1});
  CHECK(f.weights()[1] == 0);
}

TEST_CASE_TEMPLATE("noise is added in training only", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const WithNoise router{GaussianNoise{.std = 1}, TopKRouter{.k = 1}};
  SparseFixture<B> f(backend, {.tokens = 4, .experts = 2, .choices = 1}, {.noisy = true});
  const std::vector<double> logits{0, 1, 2, 3, 4, 5, 6, 7};
  f.set_logits(logits);
  router.route(backend, f.context, f.routing);
  CHECK(f.routing.noise_std == 0.5);  // std / E
  for (std::size_t i = 0; i < 8; ++i) CHECK(static_cast<double>(f.noisy_logits()[i]) != logits[i]);
  f.set_mode(Mode::eval);
  router.route(backend, f.context, f.routing);
  CHECK(f.routing.noise_std == 0);
  for (std::size_t i = 0; i < 8; ++i) CHECK(static_cast<double>(f.noisy_logits()[i]) == logits[i]);
}

TEST_CASE_TEMPLATE("noise has its mean, deviation and no memory of the token before", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr Index tokens = 4000;
  constexpr Index experts = 8;
  for (const bool per_expert : {true, false}) {
    SparseFixture<B> f(backend, {.tokens = tokens, .experts = experts, .choices = 1},
                       {.noisy = true});
    f.set_logits(std::vector<double>(static_cast<std::size_t>(tokens * experts), 3.0));
    const GaussianNoise noise{.std = 2, .per_expert = per_expert};
    const double wanted = per_expert ? 0.25 : 2;
    CHECK(noise.add(backend, f.context, ConstMatrix<B>(f.routing.logits), f.routing.noisy_logits) ==
          wanted);
    double sum = 0;
    double squares = 0;
    double neighbours = 0;
    const auto noisy = f.noisy_logits();
    for (std::size_t i = 0; i < noisy.size(); ++i) {
      const double z = static_cast<double>(noisy[i]) - 3;
      sum += z;
      squares += z * z;
      if (i >= experts) neighbours += z * (static_cast<double>(noisy[i - experts]) - 3);
    }
    const auto n = static_cast<double>(noisy.size());
    CHECK(std::fabs(sum / n) < 0.02 * wanted);
    CHECK(std::sqrt(squares / n) == doctest::Approx(wanted).epsilon(0.02));
    CHECK(std::fabs(neighbours / n) < 0.02 * wanted * wanted);
  }
}

TEST_CASE_TEMPLATE("noise depends on seed, step, layer and global token, not on the split", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto draw = [&](Index tokens, Index first, std::uint64_t seed, std::uint64_t step,
                        Index layer) {
    SparseFixture<B> f(backend, {.tokens = tokens, .experts = 3, .choices = 1}, {.noisy = true});
    f.context.first_token = first;
    f.context.seed = seed;
    f.context.step = step;
    f.context.layer = layer;
    f.set_logits(std::vector<double>(static_cast<std::size_t>(tokens * 3), 0.0));
    GaussianNoise{}.add(backend, f.context, ConstMatrix<B>(f.routing.logits),
                        f.routing.noisy_logits);
    return f.noisy_logits();
  };
  const auto all = draw(6, 0, 1, 2, 3);
  const auto head = draw(2, 0, 1, 2, 3);
  const auto tail = draw(4, 2, 1, 2, 3);
  CHECK(std::vector(all.begin(), all.begin() + 6) == head);
  CHECK(std::vector(all.begin() + 6, all.end()) == tail);
  CHECK(draw(6, 0, 2, 2, 3) != all);
  CHECK(draw(6, 0, 1, 3, 3) != all);
  CHECK(draw(6, 0, 1, 2, 4) != all);
}

TEST_CASE_TEMPLATE("combine weights are the noisy or the clean probabilities", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  SparseFixture<B> f(backend, {.tokens = 1, .experts = 2, .choices = 1}, {.noisy = true});
  f.set_logits({0, 0});
  f.set_noisy_logits({0, std::log(3)});
  for (const bool clean : {false, true}) {
    const TopKRouter router{
        .k = 1,
        .combine_source = clean ? CombineSource::softmax_clean : CombineSource::softmax_noisy};
    router.route(backend, f.context, f.routing);
    CHECK(f.choices() == Ints{1});  // the noisy logits decide
    check_near(f.weights(), {clean ? .5 : .75});
  }
}

TEST_CASE("routers refuse hyper-parameters that make no sense") {
  const auto text = [](auto f) -> std::string {
    try {
      f();
    } catch (const config_error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(text([] { TopKRouter{.k = 5}.check(4); }) ==
        "moxie::TopKRouter: k is 5, expected 1 to 4 (the number of experts)");
  CHECK(text([] { TopKRouter{.k = 0}.check(4); }) ==
        "moxie::TopKRouter: k is 0, expected 1 to 4 (the number of experts)");
  CHECK(text([] { (void)GaussianNoise{.std = -1}.scale(4); }) ==
        "moxie::GaussianNoise: std is -1, expected 0 to 1e30");
}

TEST_CASE_TEMPLATE("TopKRouter obeys the Router laws", B, MOXIE_TEST_BACKENDS) {
  check_laws<B>(TopKRouter{.k = 1});
  check_laws<B>(TopKRouter{.k = 2});
  check_laws<B>(TopKRouter{.k = 3, .renormalize = true});
}

TEST_CASE_TEMPLATE("WithNoise obeys the Router laws", B, MOXIE_TEST_BACKENDS) {
  check_laws<B>(WithNoise{GaussianNoise{.std = 1}, TopKRouter{.k = 2}});
  check_laws<B>(WithNoise{GaussianNoise{.std = 1}, TopKRouter{.k = 2, .renormalize = true}});
  check_laws<B>(WithNoise{GaussianNoise{.std = 0}, TopKRouter{.k = 2}});
  check_laws<B>(WithNoise{GaussianNoise{.std = 2, .per_expert = false},
                          TopKRouter{.k = 2, .combine_source = CombineSource::softmax_clean}});
}

TEST_CASE("with k = 1, renormalize makes every weight 1 and kills the gradient") {
  CpuBackend<double> backend;
  SparseFixture<CpuBackend<double>> f(backend, {.tokens = 1, .experts = 3, .choices = 1});
  f.set_logits({0, 1, 2});
  const TopKRouter router{.k = 1, .renormalize = true};
  router.route(backend, f.context, f.routing);
  CHECK(f.weights()[0] == 1);
  f.gradients.weight(0, 0) = 7;
  router.route_backward(backend, f.context, f.routing, f.gradients);
  CHECK(f.d_logits() == std::vector<double>(3, 0.0));
}

TEST_CASE(
    "renormalized weights of choices without probability stay finite, and so does the gradient") {
  CpuBackend<double> backend;
  SparseFixture<CpuBackend<double>> f(backend, {.tokens = 1, .experts = 3, .choices = 1});
  f.set_logits({0, -2000, 0});
  const TopKRouter router{.k = 1, .renormalize = true};
  router.score(backend, f.context, f.routing);
  f.set_choices({1});  // from outside: its probability is 0
  router.weigh(backend, f.context, f.routing);
  CHECK(f.weights()[0] == 0);
  f.gradients.weight(0, 0) = 7;
  router.route_backward(backend, f.context, f.routing, f.gradients);
  for (const double d : f.d_logits()) CHECK(math::is_finite(d));
}

namespace {

/// Breaks one law after the other.
struct Faulty : TopKRouter {
  enum class Fault { same_expert, high_tie, by_place, keeps_masked, negative, no_gradient };
  Fault fault;

  explicit Faulty(Fault f) : TopKRouter{.k = 2}, fault(f) {}
  template <Backend B>
  void route(B& b, const Context<B>& ctx, SparseRouting<B>& r) const {
    TopKRouter::route(b, ctx, r);
    for (Index t = 0; t < r.shape.tokens; ++t) {
      if (fault == Fault::keeps_masked) r.choice(t, 0) = 0;
      if (r.choice(t, 0) < 0) continue;
      if (fault == Fault::same_expert) r.choice(t, 1) = r.choice(t, 0);
      if (fault == Fault::high_tie && r.weight(t, 0) == r.weight(t, 1))
        std::swap(r.choice(t, 0), r.choice(t, 1));
      if (fault == Fault::by_place) r.weight(t, 0) /= static_cast<typename B::Scalar>(t + 1);
      if (fault == Fault::negative) r.weight(t, 1) = -1;
    }
  }
  template <Backend B>
  void route_backward(B& b, const Context<B>& ctx, const SparseRouting<B>& r,
                      RoutingGradients<SparseRouting<B>>& g) const {
    if (fault != Fault::no_gradient) TopKRouter::route_backward(b, ctx, r, g);
  }
};

}  // namespace

TEST_CASE("the Router laws find a router that breaks them") {
  CpuBackend<double> backend;
  const auto finds = [&](Faulty::Fault fault, const std::string& text) {
    const testing::LawReport report =
        testing::check_router_laws(backend, Faulty(fault), {.cases = 300});
    CAPTURE(report.message);
    CHECK_FALSE(report.passed);
    CHECK(report.message.find(text) != std::string::npos);
  };
  using enum Faulty::Fault;
  finds(same_expert, "the experts of a token are not distinct (case ");
  finds(high_tie, "a tie does not go to the lower expert");
  finds(by_place, "a token's result depends on its neighbours in the batch");
  finds(keeps_masked, "a masked token has an expert");
  finds(negative, "a weight is negative or not finite");
  finds(no_gradient, "the gradient of the logits disagrees with central differences");
}
