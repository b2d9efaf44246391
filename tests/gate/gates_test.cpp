// CosineGate, WithJitter, ZeroGate, in a layer.
#include <doctest/doctest.h>

#include <limits>

#include "device/allocations.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/gate/cosine.hpp"
#include "moxie/gate/jitter.hpp"
#include "moxie/gate/slot.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/gate/zero.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/law_report.hpp"
#include "moxie/testing/pass_through.hpp"
#include "support/backends.hpp"
#include "support/parameters.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::detail::Draw;
using testing::detail::OwnedMatrix;

namespace {

using Cpu = CpuBackend<double>;
static_assert(Gate<CosineGate, Cpu> && Gate<SlotGate, Cpu> && Gate<ZeroGate, Cpu> &&
              Gate<WithJitter<CosineGate>, Cpu>);

template <class B, class G>
auto make(B& backend, const G& gate) {
  return MoeLayer{backend, MoeShape{.width = 4, .experts = 3, .seed = 5},
                  WithGate{gate, TopKRouter{.k = 2}}, Dropless{}, testing::PassThrough{}};
}
template <class L>
void check_gradients(const L& layer, const Pass<typename L::BackendType>& pass = {}) {
  using B = typename L::BackendType;
  testing::GradientOptions<B> options{.pass = pass};
  if constexpr (std::is_same_v<B, Cpu>)
    options.allocations = [] { return static_cast<std::size_t>(allocations()); };
  const auto report = testing::check_gradients(layer, 6, options);
  CHECK_MESSAGE(report.passed, report.message);
}
template <class L>
auto logits(const L& layer, const std::vector<double>& x,
            const Pass<typename L::BackendType>& pass = {}) {
  auto& backend = layer.parameters().backend();
  const auto tokens = static_cast<Index>(x.size()) / 4;
  const OwnedMatrix in(backend, tokens, 4, x);
  const OwnedMatrix out(backend, tokens, 4);
  auto tape = layer.make_tape(tokens);
  layer.forward(in.read(), out.view(), tape, pass);
  return testing::detail::to_host(backend, tape->routing.logits);
}

}  // namespace

TEST_CASE_TEMPLATE("CosineGate: cosines of projections and embeddings over a temperature", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const auto layer = make(backend, CosineGate{.projection = 2});
  // Projections (3, 4) and (0, -5); embeddings (1, 0), (0, 2), (-3, -4). The temperature is 0.5.
  set_parameter(layer.parameters(), "Router/projection/kernel", {1, 0, 0, 1, 0, 0, 0, 0});
  set_parameter(layer.parameters(), "Router/embedding", {1, 0, -3, 0, 2, -4});
  const std::vector<double> x{3, 4, 7, 7, 0, -5, 7, 7};
  const auto near = [&](const std::vector<double>& wanted) {
    const auto got = logits(layer, x);
    for (std::size_t i = 0; i < 6; ++i)
      CHECK(testing::near(static_cast<double>(got[i]), wanted[i], 10 * testing::tolerance<T>));
  };
  near({1.2, 1.6, -2, 0, -2, 1.6});
  set_parameter(layer.parameters(), "Router/temperature", {std::log(10)});
  near({6, 8, -10, 0, -10, 8});
  set_parameter(layer.parameters(), "Router/temperature", {50});  // bounded: 1 / temperature is 100
  near({60, 80, -100, 0, -100, 80});
}

TEST_CASE_TEMPLATE("CosineGate: gradients agree, also at the bound of the temperature", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  check_gradients(make(backend, CosineGate{.projection = 5}));
  check_gradients(
      make(backend, CosineGate{.projection = 5, .temperature = 2, .most_scale = 0.5001}),
      {.mode = Mode::eval});
}

TEST_CASE("CosineGate: a temperature at its bound gets no gradient") {
  Cpu backend;
  const auto layer = make(backend, CosineGate{.projection = 2});
  set_parameter(layer.parameters(), "Router/temperature", {std::log(200)});
  Draw draw(1);
  const OwnedMatrix<Cpu> x(backend, 3, 4, draw.normals(12));
  const OwnedMatrix<Cpu> y(backend, 3, 4);
  auto tape = layer.make_tape(3);
  layer.forward(x.read(), y.view(), tape);
  layer.backward(x.read(), {}, tape);
  CHECK(layer.parameters().gradient_vector(2)[0] == 0);
  set_parameter(layer.parameters(), "Router/temperature", {std::log(2)});
  layer.forward(x.read(), y.view(), tape);
  layer.backward(x.read(), {}, tape);
  CHECK(layer.parameters().gradient_vector(2)[0] != 0);
}

TEST_CASE_TEMPLATE("WithJitter: gradients agree, through any gate", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  const InputJitter jitter{.epsilon = 0.3};
  check_gradients(make(backend, WithJitter{jitter, LinearGate{}}), {.seed = 2, .step = 7});
  check_gradients(make(backend, WithJitter{jitter, CosineGate{.projection = 3}}), {.seed = 2});
  check_gradients(make(backend, WithJitter{jitter, LinearGate{}}), {.mode = Mode::eval});
}

TEST_CASE("WithJitter: gradients agree through the gate of a soft router") {
  Cpu backend;
  check_gradients(
      MoeLayer{backend, MoeShape{.width = 4, .experts = 3, .seed = 5},
               WithGate{WithJitter{InputJitter{.epsilon = 0.3}, SlotGate{}}, SoftRouter{}},
               FixedCapacity{2}, FeedForward<Gelu>{.hidden = 3}});
}

TEST_CASE_TEMPLATE("WithJitter: factors within epsilon, by seed, step, layer and global token", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const auto layer = make(backend, WithJitter{InputJitter{.epsilon = 0.1}, LinearGate{}});
  // Logits are the factors of the first three inputs.
  set_parameter(layer.parameters(), "Router/kernel", {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0});
  const std::vector<double> ones(4 * 1000, 1);
  const auto all = logits(layer, ones, {.seed = 1, .step = 2});
  double low = 2;
  double high = 0;
  double sum = 0;
  for (const auto v : all) {
    low = (std::min)(low, static_cast<double>(v));
    high = (std::max)(high, static_cast<double>(v));
    sum += static_cast<double>(v) / 3000;
  }
  CHECK(low >= 0.9 - 1e-6);
  CHECK(low < 0.901);
  CHECK(high <= 1.1 + 1e-6);
  CHECK(high > 1.099);
  CHECK(sum == doctest::Approx(1).epsilon(0.005));
  const std::vector<double> fewer(4 * 500, 1);
  const auto head = logits(layer, fewer, {.seed = 1, .step = 2});
  const auto tail = logits(layer, fewer, {.seed = 1, .step = 2, .first_token = 500});
  CHECK(std::vector(all.begin(), all.begin() + 1500) == head);
  CHECK(std::vector(all.begin() + 1500, all.end()) == tail);
  CHECK(logits(layer, fewer, {.seed = 2, .step = 2}) != head);
  CHECK(logits(layer, fewer, {.seed = 1, .step = 3}) != head);
  CHECK(logits(layer, fewer, {.seed = 1, .step = 2, .moe_layer = 1}) != head);
  for (const auto v : logits(layer, fewer, {.mode = Mode::eval})) CHECK(v == 1);
}

TEST_CASE_TEMPLATE("ZeroGate has no parameters and makes all experts alike", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const auto layer = make(backend, ZeroGate{});
  CHECK(layer.parameters().entries().empty());
  for (const auto v : logits(layer, Draw(1).normals(12))) CHECK(v == 0);
}

TEST_CASE("gates refuse hyper-parameters that make no sense") {
  Cpu backend;
  CHECK_THROWS_WITH_AS(make(backend, CosineGate{.projection = 0}),
                       "moxie::CosineGate: projection is 0, expected >= 1", config_error);
  CHECK_THROWS_WITH_AS(
      make(backend, CosineGate{.temperature = 0}),
      "moxie::CosineGate: temperature is 0, expected at least 0.01 (1 / most_scale) and at most "
      "1e30",
      config_error);
  CHECK_THROWS_WITH_AS(make(backend, CosineGate{.most_scale = 0}),
                       "moxie::CosineGate: most_scale is 0, expected > 0 and at most 1e30",
                       config_error);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH_AS(make(backend, CosineGate{.most_scale = infinity}),
                       "moxie::CosineGate: most_scale is inf, expected > 0 and at most 1e30",
                       config_error);
  CHECK_THROWS_WITH_AS(
      make(backend, CosineGate{.temperature = infinity}),
      "moxie::CosineGate: temperature is inf, expected at least 0.01 (1 / most_scale) and at most "
      "1e30",
      config_error);
  CHECK_THROWS_WITH_AS(make(backend, WithJitter{InputJitter{.epsilon = 1}, LinearGate{}}),
                       "moxie::InputJitter: epsilon is 1, expected at least 0 and below 1",
                       config_error);
}
