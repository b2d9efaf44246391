#include <algorithm>
#include <cmath>

#include "device/allocations.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/robust/layered_router_attack.hpp"
#include "moxie/router/bias.hpp"
#include "moxie/router/soft.hpp"
#include "robust/small_moe.hpp"
#include "support/errors.hpp"
#include "support/parameters.hpp"

namespace router_divergence_test {

namespace {

using moxie::Index;
using moxie::PartMode;
using moxie::Pgd;
using moxie::test::AttackData;
using B = moxie::CpuBackend<double>;
using L = moxie::Vit<B>;
using moxie::test::small_moe;
constexpr auto images = moxie::test::moe_images;
constexpr auto pixels = moxie::test::moe_pixels;
constexpr auto tokens = moxie::test::moe_tokens;

/// Logits of every layer of a pass.
struct Logits final : moxie::RoutingVisitor<B> {
  std::vector<std::vector<double>> layers;
  Index experts = 0;

  void sparse(const moxie::SparseRouting<B>& r) override {
    experts = r.logits.cols;
    layers.emplace_back(r.logits.data, r.logits.data + r.logits.size());
  }
};
Logits logits_of(const L& model, const std::vector<double>& x, Index n) {
  auto tape = moxie::make_tape(model, n);
  std::vector<double> y(static_cast<std::size_t>(n * moxie::test::moe_classes));
  model.forward({x.data(), n, pixels}, {y.data(), n, moxie::test::moe_classes}, tape,
                {.mode = moxie::Mode::eval});
  Logits out;
  model.visit_routing(tape, out);
  return out;
}
/// J by its definition, the mean over tokens of each image, summed over images and layers.
double divergence(const Logits& clean, const Logits& own) {
  const auto softmax = [](const double* z, Index n) {
    std::vector<double> p;
    double sum = 0;
    for (Index e = 0; e < n; ++e) sum += std::exp(z[e]);
    for (Index e = 0; e < n; ++e) p.push_back(std::exp(z[e]) / sum);
    return p;
  };
  double sum = 0;
  for (std::size_t l = 0; l < clean.layers.size(); ++l)
    for (std::size_t t = 0; t < clean.layers[l].size();
         t += static_cast<std::size_t>(clean.experts)) {
      const auto p = softmax(clean.layers[l].data() + t, clean.experts);
      const auto q = softmax(own.layers[l].data() + t, clean.experts);
      for (std::size_t e = 0; e < p.size(); ++e) sum += p[e] * std::log(p[e] / q[e]) / tokens;
    }
  return sum;
}
std::vector<double> rows_of(const std::vector<double>& x, const std::vector<std::int32_t>& who) {
  std::vector<double> rows;
  for (const auto i : who)
    rows.insert(rows.end(), x.begin() + i * pixels, x.begin() + (i + 1) * pixels);
  return rows;
}

}  // namespace

TEST_CASE("the divergence of routers has the gradient of its differences, for some of the images") {
  B backend;
  const auto model = small_moe(backend);
  AttackData<B> data(backend, images, pixels, 17), other(backend, images, pixels, 18);
  moxie::RunAttack attack{moxie::RouterDivergence<L>(model, images), Pgd{}, images};
  auto& target = attack.target();
  target.record(data.batch().x);
  CHECK(target.layers() == 2);

  const std::vector<std::int32_t> some{2, 5, 13};
  const auto clean = rows_of(data.x.to_vector(), some);
  auto x = clean;
  const auto noise = moxie::test::normals(static_cast<Index>(x.size()), 4);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += 0.01 * noise[i];
  const auto before = logits_of(model, clean, 3);
  // Selections must not change between the differences, or lower layers jump.
  std::vector<double> y(3 * moxie::test::moe_classes), dx(x.size());
  const auto gradient = [&](const std::vector<double>& at) {
    target.scores({at.data(), 3, pixels}, {some.data(), 3},
                  {y.data(), 3, moxie::test::moe_classes});
    target.gradient({y.data(), 3, moxie::test::moe_classes}, {dx.data(), 3, pixels});
  };
  gradient(x);
  double largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto j = [&](double shift) {
      auto moved = x;
      moved[i] += shift;
      return divergence(before, logits_of(model, moved, 3));
    };
    CHECK(dx[i] == doctest::Approx((j(1e-6) - j(-1e-6)) / 2e-6).epsilon(1e-4).scale(0.1));
    largest = std::max(largest, std::abs(dx[i]));
  }
  CHECK(largest > 1e-3);
  gradient(clean);  // no distance is shorter than none
  for (const double d : dx) CHECK(std::abs(d) < 1e-12);
}

TEST_CASE("RA-R of a V-MoE: the attack moves routers, counts are as defined") {
  B backend;
  const auto model = small_moe(backend);
  AttackData<B> data(backend, images, pixels);
  data.label_by(backend, model);
  const Pgd pgd{.threat = {.eps = 0.4}, .step = 0.1, .steps = 12};
  moxie::LayeredRouterAttack<L> attack(model, pgd, images);
  const auto isolated = attack(data.batch(), PartMode::isolated, data.adv(), data.standing.view());
  CHECK(isolated.clean == images);
  const auto x = data.x.to_vector(), adv = data.x_adv.to_vector();
  const auto clean = logits_of(model, x, images);
  // A random point of the ball moves them less than the attack
  auto random = x;
  const auto draw = moxie::test::normals(static_cast<Index>(x.size()), 6);
  for (std::size_t i = 0; i < x.size(); ++i)
    random[i] = std::min(1.0, std::max(0.0, x[i] + std::copysign(0.4, draw[i])));
  CHECK(divergence(clean, logits_of(model, adv, images)) >
        1.2 * divergence(clean, logits_of(model, random, images)));
  for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(std::abs(adv[i] - x[i]) <= 0.4);

  // Clean images under the routes of perturbed ones
  moxie::RunAttack frozen{moxie::FrozenRoutes<L>(model, images), pgd, images};
  moxie::test::Buffer<std::int32_t, B> right(backend, images, 0);
  frozen.target().record(data.adv());
  frozen.find_correct(data.batch(), right.view());
  CHECK(right.to_vector() == data.standing.to_vector());
  const auto routes = frozen.target().routes().choice(1);
  const std::vector<std::int32_t> moved(routes.data, routes.data + routes.size());
  frozen.target().record(data.batch().x);
  const auto own = frozen.target().routes().choice(1);
  CHECK(moved != std::vector<std::int32_t>(own.data, own.data + own.size()));
  const auto kept = data.x_adv.to_vector();
  const int before = moxie::test::allocations();
  const auto transfer = attack(data.batch(), PartMode::transfer, data.adv(), data.standing.view());
  CHECK(moxie::test::allocations() - before <= 2);  // two counts come to the host
  CHECK(data.x_adv.to_vector() == kept);            // the same attack
  moxie::RunAttack plain{moxie::LayerTarget{model}, pgd, images};
  plain.find_correct(data.adv(), data.y.view(), right.view());
  CHECK(right.to_vector() == data.standing.to_vector());
  CHECK(transfer.clean == images);
}

TEST_CASE("an attack on routers does not depend on how a set is split") {
  B backend;
  const auto model = small_moe(backend);
  std::vector<double> wanted;
  for (const Index size : {images, Index{5}}) {
    AttackData<B> data(backend, images, pixels);
    data.label_by(backend, model);
    moxie::LayeredRouterAttack<L> attack(model, {.threat = {.eps = 0.1}, .step = 0.025}, images);
    for (Index first = 0; first < images; first += size) {
      const Index n = std::min(size, images - first);
      attack(data.part(first, n), PartMode::isolated, data.adv(first, n),
             data.standing.view().middle(first, n));
    }
    if (wanted.empty()) wanted = data.x_adv.to_vector();
    CHECK(data.x_adv.to_vector() == wanted);
  }
}

TEST_CASE_TEMPLATE("away from the preferred expert of an image is the attack on its router", Own,
                   MOXIE_TEST_BACKENDS) {
  using T = typename Own::Scalar;
  Own backend = moxie::test::make_backend<Own>();
  constexpr Index width = 12, experts = 3, classes = 4;
  moxie::MoeLayer mixture{backend,
                          {.width = width, .experts = experts},
                          moxie::TopKRouter{.k = 1},
                          moxie::Dropless{},
                          moxie::FeedForward<moxie::Gelu>{.hidden = 16, .output = classes}};
  const auto values = mixture.parameters().edit();
  const auto draw = moxie::test::normals(values.size, 31);
  const std::vector<T> own(draw.begin(), draw.end());
  backend.copy_from_host(values.data, own.data(), own.size() * sizeof(T));
  std::vector<double> kernel;
  for (const auto& e : mixture.parameters().entries())
    if (e.name == "Router/kernel")
      kernel.assign(own.begin() + e.offset, own.begin() + e.offset + e.size());
  REQUIRE(kernel.size() == width * experts);
  const auto router = moxie::test::linear_model(backend, width, kernel, {0, 0, 0});
  AttackData<Own> data(backend, images, width), other(backend, images, width);
  data.label_by(backend, mixture);
  other.label_by(backend, mixture);
  const Pgd pgd{.threat = {.eps = 0.06}, .step = 0.015};
  moxie::RouterAttack wanted(mixture, moxie::LayerTarget{router}, pgd, images);
  moxie::LayeredRouterAttack attack(mixture, pgd, images, moxie::RouterLoss::preference);
  CHECK(attack(data.batch(), PartMode::isolated, data.adv(), data.standing.view()) ==
        wanted(other.batch(), PartMode::isolated, other.adv(), other.standing.view()));
  CHECK(data.x_adv.to_vector() == other.x_adv.to_vector());
  CHECK(data.standing.to_vector() == other.standing.to_vector());
}

TEST_CASE("the preferred expert is the one that is selected, its bias included") {
  B backend;
  const moxie::MoeLayer mixture{backend,
                                {.width = 3, .experts = 3},
                                moxie::WithBias{moxie::BiasBalance{}, moxie::TopKRouter{.k = 1}},
                                moxie::Dropless{},
                                moxie::FeedForward<moxie::Gelu>{.hidden = 4}};
  auto& p = mixture.parameters();
  moxie::test::set_parameter(p, "Router/kernel", {1, 0, 0, 0, 1, 0, 0, 0, 1});
  for (std::size_t i = 0; i < p.entries().size(); ++i)
    if (p.entry(i).name == "Router/bias") p.buffer(i)[0] = -.1;
  // Probabilities .50 .45 .05 and a bias of -.1: .40 .45 .05, the second runs
  const std::vector<double> x{std::log(.50), std::log(.45), std::log(.05)};
  const std::int32_t image[] = {0};
  std::vector<double> y(3), dx(3);
  using Model = std::remove_const_t<decltype(mixture)>;
  moxie::RunAttack attack{moxie::RouterDivergence<Model>(mixture, 1, moxie::RouterLoss::preference),
                          Pgd{}, 1};
  attack.target().record({x.data(), 1, 3});
  attack.target().scores({x.data(), 1, 3}, {image, 1}, {y.data(), 1, 3});
  attack.target().gradient({y.data(), 1, 3}, {dx.data(), 1, 3});
  moxie::test::check_near(dx, {.50, .45 - 1, .05}, 1e-12);  // of its cross-entropy
}

TEST_CASE("what has no routers' probabilities cannot be moved away from") {
  B backend;
  const auto model = small_moe(backend);
  CHECK(moxie::test::message_of<moxie::config_error>([&] {
          moxie::LayeredRouterAttack<L>(model, Pgd{.random_start = false}, 2);
        }).starts_with("moxie::LayeredRouterAttack: random_start is false"));
  CHECK(moxie::test::message_of<moxie::config_error>(
            [&] { moxie::LayeredRouterAttack<L>(model, Pgd{.restarts = 3}, 2); }) ==
        "moxie::LayeredRouterAttack: pgd.restarts is 3, expected 1: the last image of one "
        "start counts");
  moxie::MoeLayer sparse{backend,
                         {.width = 4, .experts = 3},
                         moxie::TopKRouter{.k = 1},
                         moxie::Dropless{},
                         moxie::FeedForward<moxie::Gelu>{.hidden = 4}};
  moxie::MoeLayer soft{backend,
                       {.width = 4, .experts = 3, .group = 2},
                       moxie::SoftRouter{},
                       moxie::FixedCapacity{1},
                       moxie::FeedForward<moxie::Gelu>{.hidden = 4}};
  const std::vector<double> x(8, 0.5), z(9, 0.1);
  std::vector<double> y(8);
  const moxie::RouterAnchor<B> anchors[] = {{.logits = {z.data(), 3, 3}}};
  moxie::Pass<B> pass{.mode = moxie::Mode::eval, .anchors = anchors};
  const auto refuse = [&](const auto& layer) {
    auto tape = layer.make_tape(2);
    layer.forward({x.data(), 2, 4}, {y.data(), 2, 4}, tape, pass);
  };
  CHECK(moxie::test::message_of<moxie::shape_error>([&] { refuse(sparse); }) ==
        "moxie::MoeLayer::forward: pass.anchors: logits are [3 x 3], expected [2 x 3]");
  CHECK(moxie::test::message_of<moxie::config_error>([&] { refuse(soft); }) ==
        "moxie::MoeLayer::forward: pass.anchors: this layer is soft: its tokens have no "
        "probabilities of experts to move away from");
  const std::int32_t mask[] = {1, 1};
  pass.mask = {mask, 2};
  CHECK(moxie::test::message_of<moxie::config_error>([&] { refuse(sparse); }) ==
        "moxie::MoeLayer::forward: pass.anchors: the pass has a mask, expected none");
  moxie::RunAttack attack{moxie::RouterDivergence<decltype(soft)>(soft, 2), Pgd{}, 2};
  CHECK(moxie::test::message_of<moxie::config_error>([&] {
          attack.target().record({x.data(), 2, 4});
        }).starts_with("moxie::RouterDivergence: MoE layer 0 is soft"));
}

}  // namespace router_divergence_test
