// What regularizers read: gates, and not what a router made of them; of every kind of routing that
// has it.
#include <doctest/doctest.h>

#include <cmath>

#include "moxie/routing/soft.hpp"
#include "regularizer/all_regularizers.hpp"
#include "regularizer/evaluated.hpp"

namespace routings_test {

using namespace moxie;
using test::Evaluated;
using test::Given;
using testing::SparseFixture;

namespace {

using Host = CpuBackend<double>;
template <class A>
constexpr bool takes_soft = Regularizer<A, Host, SoftRouting<Host>>;
template <class A>
constexpr bool takes_sparse = Regularizer<A, Host, SparseRouting<Host>>;

static_assert(takes_soft<Importance> && takes_soft<TutelImportance> && takes_soft<RouterZ> &&
              takes_soft<LocalEntropy> && takes_soft<GlobalEntropy> &&
              takes_soft<ThresholdEntropy> && takes_soft<MutualInformation> &&
              takes_soft<WithDecay<Importance>>);
static_assert(!takes_soft<NoisyLoad> && !takes_soft<TutelLoad> && !takes_soft<SwitchBalance> &&
              !takes_soft<TopKBalance> && !takes_soft<WithDecay<NoisyLoad>>);
static_assert(takes_sparse<Importance> && takes_sparse<NoisyLoad> && takes_sparse<SwitchBalance> &&
              takes_sparse<TopKBalance> && takes_sparse<RouterZ> &&
              takes_sparse<MutualInformation> && takes_sparse<WithDecay<NoisyLoad>>);

const std::vector<double> logits{.9, .1, -.4, -.8, .7, .2, .3, -.1, 1.2, 1.1, 1.3, .2};
const std::vector<double> noise{.1, .2, .3, -.2, .4, 1, -.3, .2, .3, -.5, .1, .9};

}  // namespace

TEST_CASE_TEMPLATE("losses count gates, whatever was chosen", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  const auto check = [&](const auto& a) {
    CAPTURE(a.name);
    Given<B> plain(backend, logits, noise, .5, 3, 2);
    Given<B> other(backend, logits, noise, .5, 3, 2);
    other.f.set_choices({2, 1, 1, 0, -1, -1, 0, -1});  // a plan, a bias, routes from outside
    const TopKRouter none;
    Evaluated<B> by_gates(backend, a, plain.f, none);
    Evaluated<B> in_spite(backend, a, other.f, none);
    CHECK(in_spite.loss == by_gates.loss);
    CHECK(in_spite.sums == by_gates.sums);
  };
  check(SwitchBalance{.weight = 1});
  check(TopKBalance{.weight = 1});
  check(NoisyLoad{.weight = 1});
  check(TutelLoad{.weight = 1});
}

TEST_CASE_TEMPLATE("losses of ragged routing are those of its gates", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  const RoutingShape shape{
      .tokens = 4, .experts = 3, .choices = 1, .capacity = 2, .assignments = 6, .rows = 6};
  SparseFixture<B> ragged(backend, shape, {.ragged = true, .noisy = true});
  SparseFixture<B> lists(backend, shape, {.noisy = true});
  REQUIRE(ragged.routing.choice.cols == 1);
  REQUIRE(ragged.routing.choice.rows == 6);
  std::vector<double> noisy = logits;
  for (std::size_t i = 0; i < noise.size(); ++i) noisy[i] += noise[i];
  const TopKRouter router{.k = 1};
  for (SparseFixture<B>* f : {&ragged, &lists}) {
    f->set_logits(logits);
    f->set_noisy_logits(noisy);
    router.score(backend, f->context, f->routing);
    f->routing.noise_std = .5;
  }
  ragged.set_choices({0, 0, 1, 2, 2, 1});
  router.select(backend, lists.context, lists.routing);
  const auto values = [&](const auto& a, SparseFixture<B>& f) {
    const test::Buffer<T, B> sums(backend, a.sums(f.shape()), T(99));
    const test::Buffer<T, B> out(backend, 1, T(99));
    const ConstVector<B> read = sums.view();
    a.accumulate(backend, f.context, f.routing, sums.view());
    a.loss(backend, f.context, f.routing, read, out.view());
    f.zero_gradients();
    a.loss_backward(backend, f.context, f.routing, read, f.gradients);
    std::vector<T> all = sums.to_vector();
    for (const auto& part : {out.to_vector(), testing::detail::to_host(backend, f.gradients.logits),
                             testing::detail::to_host(backend, f.gradients.probs),
                             testing::detail::to_host(backend, f.gradients.noisy_probs)})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  };
  test::for_each_regularizer(1, [&](const auto& a) {
    CAPTURE(a.name);
    CHECK(values(a, ragged) == values(a, lists));
  });
}

TEST_CASE_TEMPLATE("balance takes noisy gates in training and clean ones in evaluation", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 10 * testing::tolerance<typename B::Scalar>;
  std::vector<double> noisy = logits;
  for (std::size_t i = 0; i < noise.size(); ++i) noisy[i] += noise[i];
  const auto check = [&](const auto& a) {
    const auto of = [&](const std::vector<double>& l) {
      Given<B> g(backend, l, {}, 0, 3, 2);
      return Evaluated<B>(backend, a, g.f, g.router).loss;
    };
    Given<B> g(backend, logits, noise, .5, 3, 2);
    CHECK(testing::near(Evaluated<B>(backend, a, g.f, g.router).loss, of(noisy), by));
    CHECK_FALSE(testing::near(of(noisy), of(logits), 1e-3));
    g.f.set_mode(Mode::eval);
    g.router.route(backend, g.f.context, g.f.routing);
    CHECK(testing::near(Evaluated<B>(backend, a, g.f, g.router).loss, of(logits), by));
  };
  check(SwitchBalance{.weight = 1});
  check(TopKBalance{.weight = 1});
}

TEST_CASE_TEMPLATE("a loss is the mean over groups of the loss of the tokens that count", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 20 * testing::tolerance<typename B::Scalar>;
  const auto rows = [](const std::vector<double>& v, std::initializer_list<std::ptrdiff_t> of) {
    std::vector<double> out;
    for (const std::ptrdiff_t t : of)
      out.insert(out.end(), v.begin() + 3 * t, v.begin() + 3 * t + 3);
    return out;
  };
  test::for_each_regularizer(1, [&](const auto& a) {
    CAPTURE(a.name);
    const auto alone = [&](std::initializer_list<std::ptrdiff_t> tokens) {
      Given<B> g(backend, rows(logits, tokens), rows(noise, tokens), .5, 3, 2);
      return Evaluated<B>(backend, a, g.f, g.router).loss;
    };
    SparseFixture<B> f(backend, {.tokens = 4, .experts = 3, .choices = 2, .group = 2},
                       {.noisy = true});
    std::vector<double> noisy = logits;
    for (std::size_t i = 0; i < noise.size(); ++i) noisy[i] += noise[i];
    f.set_logits(logits);
    f.set_noisy_logits(noisy);
    const TopKRouter router{.k = 2};
    const auto together = [&](const std::vector<std::int32_t>& mask) {
      f.set_mask(mask);
      router.route(backend, f.context, f.routing);
      f.routing.noise_std = .5;
      return Evaluated<B>(backend, a, f, router).loss;
    };
    CHECK(testing::near(together({}), (alone({0, 1}) + alone({2, 3})) / 2, by));
    CHECK(testing::near(together({1, 1, 0, 1}), (alone({0, 1}) + alone({3})) / 2, by));
    CHECK(testing::near(together({0, 0, 1, 1}), alone({2, 3}) / 2,
                        by));  // nothing counts in the first
    CHECK(together({0, 0, 0, 0}) == 0);
  });
}

TEST_CASE_TEMPLATE("losses of probabilities are the same for soft routing", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = test::make_backend<B>();
  Given<B> g(backend, logits, {}, 0, 3, 1);
  SparseRouting<B>& sparse = g.f.routing;
  SoftRouting<B> soft;
  soft.shape = sparse.shape;
  soft.probs = sparse.probs;
  soft.logits = sparse.logits;  // one slot an expert
  const auto check = [&](const auto& a) {
    CAPTURE(a.name);
    const test::Buffer<T, B> sums(backend, a.sums(soft.shape), T(99));
    const test::Buffer<T, B> out(backend, 1, T(99));
    const test::Buffer<T, B> d_probs(backend, 12, T(0));
    const test::Buffer<T, B> d_logits(backend, 12, T(0));
    RoutingGradients<SoftRouting<B>> d;
    d.probs = d_probs.view(4, 3);
    d.logits = d_logits.view(4, 3);
    const ConstVector<B> read = sums.view();
    a.accumulate(backend, g.f.context, soft, sums.view());
    a.loss(backend, g.f.context, soft, read, out.view());
    a.loss_backward(backend, g.f.context, soft, read, d);
    const std::vector<T> soft_sums = sums.to_vector();
    const T soft_loss = out.to_vector()[0];
    a.accumulate(backend, g.f.context, sparse, sums.view());
    a.loss(backend, g.f.context, sparse, read, out.view());
    g.f.zero_gradients();
    a.loss_backward(backend, g.f.context, sparse, read, g.f.gradients);
    CHECK(soft_sums == sums.to_vector());
    CHECK(soft_loss == out.to_vector()[0]);
    CHECK(d_probs.to_vector() == testing::detail::to_host(backend, g.f.gradients.probs));
    CHECK(d_logits.to_vector() == testing::detail::to_host(backend, g.f.gradients.logits));
  };
  check(Importance{});
  check(TutelImportance{});
  check(RouterZ{});
  check(LocalEntropy{});
  check(GlobalEntropy{});
  check(ThresholdEntropy{});
  check(MutualInformation{});
}

TEST_CASE_TEMPLATE("a ThresholdEntropy that is met has no gradient", B, MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  Given<B> g(backend, logits, {}, 0, 3, 1);
  const Evaluated<B> met(backend, ThresholdEntropy{.weight = 1, .used = 2}, g.f, g.router);
  CHECK(met.loss == 0);
  for (const auto d : met.d_logits) CHECK(d == 0);
  const Evaluated<B> unmet(backend, ThresholdEntropy{.weight = 1}, g.f, g.router);
  CHECK(unmet.loss > 0);
  const Evaluated<B> free(backend, GlobalEntropy{.weight = 1}, g.f, g.router);
  CHECK(unmet.d_logits == free.d_logits);
}

TEST_CASE_TEMPLATE("one expert takes everything: balance is E, entropies are 0", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = test::make_backend<B>();
  constexpr double by = 10 * testing::tolerance<typename B::Scalar>;
  Given<B> g(backend, {0, 1e4, 0, 0, 1e4, 0}, {}, 0, 3, 1);
  const auto loss = [&](const auto& a) { return Evaluated<B>(backend, a, g.f, g.router).loss; };
  CHECK(testing::near(loss(SwitchBalance{.weight = 1}), 3, by));
  CHECK(testing::near(loss(Importance{.weight = 1}), 2, by));
  CHECK(testing::near(loss(Importance{.weight = 1, .variation = {.unbiased = true}}), 3, by));
  CHECK(testing::near(loss(GlobalEntropy{.weight = 1}), 0, by));
  CHECK(testing::near(loss(LocalEntropy{.weight = 1}), 0, by));
  CHECK(testing::near(loss(ThresholdEntropy{.weight = 1}), std::log(3), by));
}

}  // namespace routings_test
