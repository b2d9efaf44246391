// A MoeLayer whose router is soft.
#include <doctest/doctest.h>

#include "device/allocations.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/train_eval.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/optimizer/decay.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/law_report.hpp"
#include "moxie/testing/pass_through.hpp"
#include "support/backends.hpp"
#include "support/parameters.hpp"
#include "support/vectors.hpp"

using namespace moxie;
using namespace moxie::test;
using testing::detail::Draw;
using testing::detail::OwnedMatrix;

namespace {

template <class B, class C>
using SoftLayer = MoeLayer<B, SoftRouter, C, FeedForward<Gelu>, Importance>;

template <class B, class C>
SoftLayer<B, C> make(B& backend, Index group, C capacity, SoftRouter router = {},
                     double importance = 0) {
  return {backend,
          MoeShape{.width = 5, .experts = 3, .group = group, .seed = 4},
          router,
          capacity,
          FeedForward<Gelu>{.hidden = 6},
          Importance{.weight = importance}};
}

template <class B>
std::vector<double> gradient_of(const Parameters<B>& p, std::string_view name) {
  const auto part =
      part_of(testing::detail::to_host(p.backend(), p.gradients()), entry_of(p, name));
  return {part.begin(), part.end()};
}

template <class L>
void check_gradients(const L& layer, Index rows, const Pass<typename L::BackendType>& pass = {}) {
  using B = typename L::BackendType;
  testing::GradientOptions<B> options{
      .pass = pass, .row_multiple = layer.shape().group > 0 ? layer.shape().group : 1};
  if (pass.mask) options.row_multiple = rows;  // a smaller pass would need a mask of its own
  if constexpr (std::is_same_v<B, CpuBackend<double>>)
    options.allocations = [] { return static_cast<std::size_t>(allocations()); };
  const testing::GradientReport report = testing::check_gradients(layer, rows, options);
  CHECK_MESSAGE(report.passed, report.message);
}

}  // namespace

TEST_CASE_TEMPLATE("a soft MoeLayer gives the numbers of the golden vector", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const nlohmann::json v = read_vector("12_soft_moe");
  const nlohmann::json& in = v["inputs"];
  const nlohmann::json& out = v["expected"];
  const double by = std::is_same_v<T, double> ? v["tol_float64"].get<double>() : 1e-5;
  const auto near = [&](const auto& got, const std::vector<double>& wanted, const char* what) {
    CAPTURE(what);
    REQUIRE(got.size() == wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      CHECK(testing::near(static_cast<double>(got[i]), wanted[i], by));
  };
  const auto S = static_cast<Index>(in["x"].size());
  const auto D = static_cast<Index>(in["mu"].size());
  const auto E = static_cast<Index>(in["mu"][0].size());
  const auto P = static_cast<Index>(in["mu"][0][0].size());
  const auto H = static_cast<Index>(in["experts"][0]["b1"].size());
  const MoeLayer layer{backend, MoeShape{.width = D, .experts = E}, SoftRouter{}, FixedCapacity{P},
                       FeedForward<Gelu>{.hidden = H}};
  Parameters<B>& p = layer.parameters();
  set_parameter(p, "Router/mu", flat<double>(in["mu"]));
  set_parameter(p, "Router/scale", flat<double>(in["scale"]));
  for (const auto& [key, name] : {std::pair{"w1", "Mlp/Dense_0/kernel"},
                                  {"b1", "Mlp/Dense_0/bias"},
                                  {"w2", "Mlp/Dense_1/kernel"},
                                  {"b2", "Mlp/Dense_1/bias"}}) {
    std::vector<double> values;
    for (const nlohmann::json& expert : in["experts"])
      for (const double value : flat<double>(expert[key])) values.push_back(value);
    set_parameter(p, name, values);
  }
  const OwnedMatrix<B> x(backend, S, D, flat<double>(in["x"]));
  const OwnedMatrix<B> r(backend, S, D, flat<double>(in["r"]));
  const OwnedMatrix<B> y(backend, S, D);
  const OwnedMatrix<B> dx(backend, S, D);
  auto tape = layer.make_tape(S);
  layer.forward(x.read(), y.view(), tape);
  const auto host = [&](auto view) { return testing::detail::to_host(backend, view); };
  near(host(tape->routing.logits), flat<double>(out["logits"]), "logits");
  near(host(tape->routing.dispatch), flat<double>(out["dispatch"]), "dispatch");
  near(host(tape->routing.combine), flat<double>(out["combine"]), "combine");
  near(y.get(), flat<double>(out["y"]), "y");
  near(std::vector{testing::detail::dot(r.get(), y.get())}, flat<double>(out["loss"]), "loss");
  p.zero_gradients();
  layer.backward(r.read(), dx.view(), tape);
  near(dx.get(), flat<double>(out["dx"]), "dx");
  near(gradient_of(p, "Router/mu"), flat<double>(out["dmu"]), "dmu");
}

TEST_CASE_TEMPLATE("a soft MoeLayer by hand: two tokens, two slots, experts that copy", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  // Tokens along the axes, directions along the axes, scale ln 3: the logits are ln 3 times 1.
  const MoeLayer layer{backend, MoeShape{.width = 2, .experts = 2}, SoftRouter{}, FixedCapacity{1},
                       testing::PassThrough{}};
  set_parameter(layer.parameters(), "Router/mu", {1000, 0, 0, 1000});
  set_parameter(layer.parameters(), "Router/scale", {std::log(3)});
  const OwnedMatrix<B> x(backend, 2, 2, {2000, 0, 0, 8000});
  const OwnedMatrix<B> y(backend, 2, 2);
  auto tape = layer.make_tape(2, Gradients::none);
  layer.forward(x.read(), y.view(), tape);
  // y0 = .625 x0 + .375 x1, y1 = .375 x0 + .625 x1
  const std::vector<double> wanted{1250, 3000, 750, 5000};
  const auto got = y.get();
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(testing::near(static_cast<double>(got[i]), wanted[i], 1e-5));
}

TEST_CASE_TEMPLATE("a soft MoeLayer's gradients agree: groups, slots, losses, modes", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  check_gradients(make(backend, 4, FixedCapacity{1}), 8);
  check_gradients(make(backend, 4, FixedCapacity{2}, {.noise = 0.5}, 0.3), 12,
                  {.seed = 3, .step = 9});
  check_gradients(make(backend, 4, FixedCapacity{3}, {.noise = 0.5}, 0.3), 8, {.mode = Mode::eval});
  check_gradients(make(backend, 1, FixedCapacity{2}, {}, 0.3), 3);
  check_gradients(make(backend, 0, FixedCapacity{2}, {.gate = {.cosine = false}}, 0.3), 7);
}

TEST_CASE_TEMPLATE("a soft MoeLayer's gradients agree with capacities of the group", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  check_gradients(make(backend, 6, CapacityFactor{.factor = 1}), 12);  // 2 slots an expert
}

TEST_CASE_TEMPLATE("a soft MoeLayer with padding", B, MOXIE_DOUBLE_BACKENDS) {
  B backend = make_backend<B>();
  const test::Buffer<std::int32_t, B> mask(backend, {1, 0, 1, 1, 0, 0, 0, 0});
  const Pass<B> pass{.mask = mask.view()};
  const auto layer = make(backend, 4, FixedCapacity{2}, {}, 0.3);

  // Padded tokens get zeros, and what they hold reaches nobody.
  Draw draw(8);
  std::vector<double> values = draw.normals(40);
  const OwnedMatrix<B> y(backend, 8, 5);
  const OwnedMatrix<B> dx(backend, 8, 5);
  const OwnedMatrix<B> dy(backend, 8, 5, draw.normals(40));
  OwnedMatrix<B> x(backend, 8, 5, values);
  auto tape = layer.make_tape(8);
  const auto run = [&] {
    layer.parameters().zero_gradients();
    layer.forward(x.read(), y.view(), tape, pass);
    layer.backward(dy.read(), dx.view(), tape);
    return std::tuple{y.get(), dx.get(),
                      testing::detail::to_host(backend, layer.parameters().gradients())};
  };
  const auto before = run();
  for (const std::size_t t : {1U, 4U, 5U, 6U, 7U})
    for (std::size_t d = 0; d < 5; ++d) {
      CHECK(std::get<0>(before)[t * 5 + d] == 0);
      CHECK(std::get<1>(before)[t * 5 + d] == 0);
      values[t * 5 + d] = 100 + static_cast<double>(d);
    }
  x.set(values);
  CHECK(run() == before);

  // Central differences of x under this mask.
  const auto loss = [&](const std::vector<double>& at) {
    x.set(at);
    layer.forward(x.read(), y.view(), tape, pass);
    return testing::detail::dot(y.get(), dy.get()) +
           static_cast<double>(layer.read_losses(*tape)[0]);
  };
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::vector<double> up = values;
    std::vector<double> down = values;
    up[i] += 1e-5;
    down[i] -= 1e-5;
    CHECK(testing::near(std::get<1>(before)[i], (loss(up) - loss(down)) / 2e-5, 1e-6));
  }
}

TEST_CASE_TEMPLATE("groups of a soft MoeLayer do not see each other", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const auto layer = make(backend, 4, CapacityFactor{.factor = 1.5});  // 2 slots an expert
  Draw draw(2);
  const std::vector<double> values = draw.normals(60);
  const auto forward = [&](Index first, Index tokens) {
    const OwnedMatrix<B> x(backend, tokens, 5,
                           {values.begin() + first * 5, values.begin() + (first + tokens) * 5});
    const OwnedMatrix<B> y(backend, tokens, 5);
    auto tape = layer.make_tape(12);
    layer.forward(x.read(), y.view(), tape);
    CHECK(tape->routing.slots() == 2);
    return y.get();
  };
  const std::vector<T> all = forward(0, 12);
  std::vector<T> parts = forward(0, 4);
  for (const T v : forward(4, 8)) parts.push_back(v);
  if constexpr (B::batch_invariant) {
    CHECK(parts == all);
  } else {
    REQUIRE(parts.size() == all.size());
    for (std::size_t i = 0; i < all.size(); ++i)
      CHECK(testing::near(static_cast<double>(parts[i]), static_cast<double>(all[i]),
                          sizeof(T) == sizeof(float) ? 1e-5 : 1e-12));
  }
}

TEST_CASE_TEMPLATE("a soft MoeLayer gives the same bits for any number of threads", T, float,
                   double) {
  Draw draw(2);
  const std::vector<double> values = draw.normals(96 * 20);
  const auto run = [&](int threads) {
    ThreadPool pool(threads);
    CpuBackend<T> backend(pool);
    const MoeLayer layer{backend, MoeShape{.width = 20, .experts = 7, .group = 48, .seed = 1},
                         SoftRouter{.noise = 0.1}, FixedCapacity{3},
                         FeedForward<Gelu>{.hidden = 9}};
    const OwnedMatrix<CpuBackend<T>> x(backend, 96, 20, values);
    const OwnedMatrix<CpuBackend<T>> y(backend, 96, 20);
    const OwnedMatrix<CpuBackend<T>> dx(backend, 96, 20);
    auto tape = layer.make_tape(96);
    layer.forward(x.read(), y.view(), tape);
    layer.backward(x.read(), dx.view(), tape);
    return std::tuple{y.get(), dx.get(),
                      testing::detail::to_host(backend, layer.parameters().gradients())};
  };
  const auto one = run(1);
  for (const int threads : {2, 3, 8}) CHECK(run(threads) == one);
}

TEST_CASE("a soft MoeLayer says which capacities make no sense") {
  CpuBackend<double> backend;
  CHECK_THROWS_WITH_AS(
      make(backend, 0, CapacityFactor{.factor = 1}),
      "moxie::MoeLayer: the slots of a soft router depend on shape.group, which is 0: "
      "give it the tokens of one image, or a FixedCapacity",
      config_error);
  CHECK_THROWS_WITH_AS(make(backend, 4, TrainEval{FixedCapacity{2}, FixedCapacity{3}}),
                       "moxie::MoeLayer: a soft router has 2 slots an expert in training and 3 in "
                       "evaluation, expected the same: they are parameters",
                       config_error);
  CHECK_THROWS_WITH_AS(make(backend, 4, FixedCapacity{0}),
                       "moxie::MoeLayer: the capacity is 0 slots for a group of 4 tokens and 3 "
                       "experts, expected >= 1",
                       config_error);
  const auto layer = make(backend, 4, FixedCapacity{2});
  auto tape = layer.make_tape(4);
  std::vector<double> x(20, 1);
  std::vector<double> y(20);
  std::vector<std::int32_t> choice(4, 0);
  const Routes<CpuBackend<double>> routes{.choice = {choice.data(), 4, 1}};
  CHECK_THROWS_WITH_AS(layer.forward({x.data(), 4, 5}, {y.data(), 4, 5}, tape,
                                     Pass<CpuBackend<double>>{}.with(std::span(&routes, 1))),
                       "moxie::MoeLayer::forward: pass.routes: this router has no score and weigh, "
                       "so it cannot take choices from outside",
                       config_error);
}

TEST_CASE("a soft MoeLayer's parameters: their names, shapes, start and decay") {
  CpuBackend<double> backend;
  const auto layer = make(backend, 4, FixedCapacity{2});
  const Parameters<CpuBackend<double>>& p = layer.parameters();
  const ParameterEntry& mu = p.entries()[0];
  const ParameterEntry& scale = p.entries()[1];
  CHECK(mu.name == "Router/mu");
  CHECK(mu.shape == std::vector<Index>{5, 3, 2});
  CHECK(mu.initializer == Initializer::normal(1 / std::sqrt(5.0)));
  CHECK(scale.name == "Router/scale");
  CHECK(scale.shape.empty());
  CHECK(p.vector(1)[0] == 1);
  CHECK(Decay::kernels(0.1)(mu.name) == 0);
  CHECK(Decay::kernels(0.1)(scale.name) == 0);
  const auto plain = make(backend, 4, FixedCapacity{2}, {.gate = {.cosine = false}});
  CHECK(plain.parameters().entries()[1].name != "Router/scale");
}

TEST_CASE("a soft MoeLayer names the token whose logits are not finite") {
  CpuBackend<double> backend;
  const auto layer = make(backend, 4, FixedCapacity{2});
  auto tape = layer.make_tape(4);
  std::vector<double> x(20, 1);
  std::vector<double> y(20);
  x[13] = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(layer.forward({x.data(), 4, 5}, {y.data(), 4, 5}, tape),
                       doctest::Contains("the gate's logits of token 2 (expert 0"), numeric_error);
}
