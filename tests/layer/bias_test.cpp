// A MoeLayer that balances its loads by a bias in selection.
#include <doctest/doctest.h>

#include "device/allocations.hpp"
#include "io/folder.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/next_choice.hpp"
#include "moxie/io/checkpoint.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/sigmoid.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/law_report.hpp"
#include "moxie/testing/pass_through.hpp"
#include "support/backends.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::detail::Draw;
using testing::detail::OwnedMatrix;

namespace {

/// A layer whose logits are its input: one dimension an expert, the gate's kernel the identity.
template <class B, class R, class C = Dropless>
struct Bench {
  using T = typename B::Scalar;
  using L = MoeLayer<B, WithBias<R>, C, testing::PassThrough>;
  B& backend;
  L layer;
  OwnedTape<L> tape;
  OwnedMatrix<B> y, dx;
  Index tokens, experts;

  Bench(B& b, Index tokens_, Index experts_, double rate, R router, C capacity = {})
      : backend(b),
        layer(b, MoeShape{.width = experts_, .experts = experts_},
              WithBias{BiasBalance{.rate = rate}, router}, capacity, testing::PassThrough{}),
        tape(layer.make_tape(tokens_)),
        y(b, tokens_, experts_),
        dx(b, tokens_, experts_),
        tokens(tokens_),
        experts(experts_) {
    std::vector<double> identity(static_cast<std::size_t>(experts * experts));
    for (Index e = 0; e < experts; ++e) identity[static_cast<std::size_t>(e * (experts + 1))] = 1;
    testing::detail::from_host(b, p().edit(), identity);
  }
  Parameters<B>& p() { return layer.parameters(); }
  void pass(const std::vector<double>& logits, const Pass<B>& told = {}) {
    const OwnedMatrix<B> x(backend, tokens, experts, logits);
    layer.forward(x.read(), y.view(), tape, told);
    layer.backward(x.read(), dx.view(), tape);
  }
  std::vector<T> buffer(std::string_view name) {
    for (std::size_t i = 0; i < p().entries().size(); ++i)
      if (p().entry(i).name == name) return testing::detail::to_host(backend, p().buffer(i));
    FAIL("no buffer " << name);
    return {};
  }
  std::vector<T> bias() { return buffer("Router/bias"); }
  std::vector<T> selections() { return buffer("Router/selections"); }
  std::vector<std::int32_t> choices() {
    return testing::detail::to_host(backend, tape->routing.choice);
  }
};

double max_violation(const std::vector<double>& counts) {
  double sum = 0;
  double most = 0;
  for (const double n : counts) {
    sum += n;
    most = (std::max)(most, n);
  }
  return most * static_cast<double>(counts.size()) / sum - 1;
}

}  // namespace

TEST_CASE_TEMPLATE("loss-free balancing gives the steps of the golden vector", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const nlohmann::json v = read_vector("15_bias_balancing");
  const nlohmann::json& in = v["inputs"];
  const double by = std::is_same_v<T, double> ? v["tol_float64"].get<double>() : 1e-5;
  std::vector<double> logits;
  for (const double s : flat<double>(in["scores"])) logits.push_back(std::log(s / (1 - s)));
  const auto tokens = static_cast<Index>(in["scores"].size());
  const auto experts = static_cast<Index>(in["scores"][0].size());
  Bench bench(backend, tokens, experts, in["u"].get<double>(),
              SigmoidTopKRouter{.k = in["k"].get<Index>()}, FixedCapacity{1});  // drops count, too
  const auto check_bias = [&](const nlohmann::json& wanted) {
    const auto got = bench.bias();
    const std::vector<double> numbers = flat<double>(wanted);
    REQUIRE(got.size() == numbers.size());
    for (std::size_t e = 0; e < got.size(); ++e)
      CHECK(testing::near(static_cast<double>(got[e]), numbers[e], by));
  };
  for (const nlohmann::json& step : v["expected"]["steps"]) {
    check_bias(step["bias"]);
    bench.pass(logits);
    CHECK(bench.choices() == flat<std::int32_t>(step["expert"]));
    CHECK(bench.selections() == flat<T>(step["count"]));
    bench.p().after_step();
    check_bias(step["bias_next"]);
  }
}

TEST_CASE_TEMPLATE("the bias moves once a step, after all of its passes", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  Bench bench(backend, 2, 2, 0.5, TopKRouter{});
  bench.pass({1, 0, 1, 0});
  bench.pass({0, 1, 1, 0});
  CHECK(bench.bias() == std::vector<T>{0, 0});
  CHECK(bench.selections() == std::vector<T>{3, 1});
  bench.p().after_step();
  CHECK(bench.bias() == std::vector<T>{T(-.5), T(.5)});
  CHECK(bench.selections() == std::vector<T>{0, 0});
  bench.p().after_step();  // nothing was counted: balanced
  CHECK(bench.bias() == std::vector<T>{T(-.5), T(.5)});
}

TEST_CASE_TEMPLATE("only backwards of training passes for all gradients count selections", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  Bench bench(backend, 2, 2, 0.5, TopKRouter{});
  const std::vector<double> skewed{1, 0, 1, 0};
  bench.pass(skewed, {.mode = Mode::eval});
  bench.pass(skewed, {.gradients = Gradients::input});
  const OwnedMatrix<B> x(backend, 2, 2, skewed);
  bench.layer.forward(x.read(), bench.y.view(), bench.tape);
  CHECK(bench.selections() == std::vector<T>{0, 0});
  bench.p().after_step();
  CHECK(bench.bias() == std::vector<T>{0, 0});

  const test::Buffer<std::int32_t, B> mask(backend, {1, 0});
  bench.pass(skewed, {.mask = mask.view()});
  CHECK(bench.selections() == std::vector<T>{1, 0});
  bench.p().after_step();
  // Evaluation uses the bias, and leaves it alone: .731 - .5 < .269 + .5
  bench.pass(skewed, {.mode = Mode::eval});
  CHECK(bench.choices() == std::vector<std::int32_t>{1, 1});
  CHECK(bench.bias() == std::vector<T>{T(-.5), T(.5)});
}

TEST_CASE_TEMPLATE("skewed logits become balanced over steps", B, MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  constexpr Index tokens = 64;
  constexpr Index experts = 8;
  Bench bench(backend, tokens, experts, 5e-3, SigmoidTopKRouter{.k = 2});
  Draw draw(1);
  double first = 0;
  double last = 0;
  for (int step = 0; step < 200; ++step) {
    std::vector<double> logits = draw.normals(tokens * experts);
    for (std::size_t i = 0; i < logits.size(); ++i)
      logits[i] += 1.5 - 0.4 * static_cast<double>(i % experts);
    bench.pass(logits);
    std::vector<double> counts;
    for (const auto n : bench.selections()) counts.push_back(static_cast<double>(n));
    if (step == 0) first = max_violation(counts);
    if (step >= 180) last += max_violation(counts) / 20;
    bench.p().after_step();
  }
  CAPTURE(first);
  CAPTURE(last);
  CHECK(first > 1);
  CHECK(last < 0.4);
}

TEST_CASE("the bias and what is counted are saved and restored, and are not trained") {
  using B = CpuBackend<double>;
  B backend;
  const Folder folder;
  Bench bench(backend, 2, 2, 0.25, TopKRouter{});
  bench.pass({1, 0, 1, 0});
  bench.p().after_step();
  bench.pass({3, 0, 3, 0});
  save_checkpoint(folder / "run.safetensors", bench.p(), {});
  CHECK(bench.p().size() == 4);  // the gate's kernel alone

  Bench other(backend, 2, 2, 0.25, TopKRouter{});
  load_checkpoint(folder / "run.safetensors", other.p());
  CHECK(other.bias() == std::vector<double>{-.25, .25});
  CHECK(other.selections() == std::vector<double>{2, 0});
  other.p().after_step();
  CHECK(other.bias() == std::vector<double>{-.5, .5});
}

TEST_CASE_TEMPLATE("choices are counted as the router made them, not where they overflowed to", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  // All four want expert 0, which has two slots: the other two are served by expert 1.
  Bench bench(backend, 4, 2, 1, TopKRouter{.k = 1}, WithOverflow{NextChoice{}, FixedCapacity{2}});
  bench.pass({1, 0, 1, 0, 1, 0, 1, 0});
  CHECK(bench.choices() == std::vector<std::int32_t>{0, 0, 1, 1});
  CHECK(bench.selections() == std::vector<T>{4, 0});
  bench.p().after_step();
  CHECK(bench.bias() == std::vector<T>{-1, 1});
}

TEST_CASE("a rate of 0 keeps no bias, and one that is negative or not finite is refused") {
  CpuBackend<double> backend;
  Bench bench(backend, 2, 2, 0, TopKRouter{});
  CHECK(bench.p().entries().size() == 1);
  bench.pass({1, 0, 1, 0});
  bench.p().after_step();
  CHECK_THROWS_WITH_AS((Bench{backend, 2, 2, -1.0, TopKRouter{}}),
                       "moxie::BiasBalance: rate is -1, expected a finite number >= 0",
                       config_error);
  const WithBias endless{BiasBalance{.rate = std::numeric_limits<double>::infinity()},
                         TopKRouter{}};
  CHECK_THROWS_WITH_AS(endless.check(2),
                       "moxie::BiasBalance: rate is inf, expected a finite number >= 0",
                       config_error);
}

TEST_CASE("gradients agree under a bias, and neither pass nor step allocates") {
  using B = CpuBackend<double>;
  B backend;
  Bench bench(backend, 6, 5, 0.2, SigmoidTopKRouter{.k = 2, .renormalize = false, .scale = 2});
  Draw draw(3);
  for (int i = 0; i < 3; ++i) {
    bench.pass(draw.normals(30));
    bench.p().after_step();
  }
  REQUIRE(bench.bias() != std::vector<double>(5, 0.0));
  testing::GradientOptions<B> options{
      .allocations = [] { return static_cast<std::size_t>(allocations()); }};
  const auto report = testing::check_gradients(bench.layer, 6, options);
  CHECK_MESSAGE(report.passed, report.message);
  const auto before = allocations();
  bench.p().after_step();
  CHECK(allocations() == before);
}
