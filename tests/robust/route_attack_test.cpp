#include <algorithm>
#include <cmath>

#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/robust/auto_attack.hpp"
#include "moxie/robust/layered_router_attack.hpp"
#include "moxie/robust/metrics.hpp"
#include "moxie/router/expert_choice.hpp"
#include "moxie/router/top_k.hpp"
#include "robust/models.hpp"
#include "support/errors.hpp"

namespace route_attack_test {

namespace {

using moxie::Index;
using moxie::PartMode;
using moxie::Pgd;
using moxie::test::AttackData;

constexpr Index width = 12, experts = 3, classes = 4, images = 40;

/// One mixture of whole images: a row is an image, an expert gives its scores.
template <class B, class C>
auto image_mixture(B& backend, const C& capacity) {
  moxie::MoeLayer layer{backend,
                        {.width = width, .experts = experts},
                        moxie::TopKRouter{.k = 1},
                        capacity,
                        moxie::FeedForward<moxie::Gelu>{.hidden = 16, .output = classes}};
  // Weights large enough for close decisions
  const auto values = layer.parameters().edit();
  const auto draw = moxie::test::normals(values.size, 31);
  std::vector<typename B::Scalar> host;
  for (const double d : draw) host.push_back(static_cast<typename B::Scalar>(d));
  backend.copy_from_host(values.data, host.data(), host.size() * sizeof(host[0]));
  return layer;
}
/// The mixture's gate as a model from images to router scores.
template <class B, class L>
moxie::Linear<B> router_of(B& backend, const L& layer) {
  const auto& p = layer.parameters();
  std::vector<double> kernel;
  for (const auto& e : p.entries()) {
    if (e.name.find("Router") == std::string::npos) continue;
    std::vector<typename B::Scalar> host(static_cast<std::size_t>(e.size()));
    backend.copy_to_host(host.data(), p.values().data + e.offset, host.size() * sizeof(host[0]));
    kernel.assign(host.begin(), host.end());
  }
  return moxie::test::linear_model(backend, width, kernel, {0, 0, 0});
}

/// An attack of two steps, which is enough where it is not its strength that is looked at.
Pgd two_steps() { return {.threat = {.eps = 0.04}, .steps = 2}; }

/// Images whose classes are what `layer` says of them.
template <class B, class L>
AttackData<B> labelled_images(B& backend, const L& layer) {
  AttackData<B> data(backend, images, width);
  data.label_by(backend, layer);
  return data;
}

}  // namespace

TEST_CASE_TEMPLATE("frozen routes stay those of the clean images, in any batch", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  const auto layer = image_mixture(backend, moxie::Dropless{});
  using L = std::remove_cvref_t<decltype(layer)>;
  AttackData<B> data(backend, images, width, 17), other(backend, images, width, 18);
  moxie::RunAttack frozen{moxie::FrozenRoutes<L>(layer, images), Pgd{}, images};
  frozen.target().record(data.batch().x);
  const auto ask = [&](auto& target, moxie::ConstMatrix<B> x,
                       const std::vector<std::int32_t>& who) {
    const moxie::test::Buffer<std::int32_t, B> image(backend, who);
    const auto n = static_cast<Index>(who.size());
    moxie::test::Buffer<T, B> y(backend, n * classes, 0);
    target.scores(x, moxie::ConstIntVector<B>(image.view()), y.view(n, classes));
    return y.to_vector();
  };
  std::vector<std::int32_t> all;
  for (std::int32_t i = 0; i < images; ++i) all.push_back(i);
  moxie::RunAttack plain{moxie::LayerTarget{layer}, Pgd{}, images};
  CHECK(ask(frozen.target(), data.batch().x, all) == ask(plain.target(), data.batch().x, all));
  const auto held = ask(frozen.target(), other.batch().x, all);
  CHECK(held != ask(plain.target(), other.batch().x, all));
  // Some of the images alone get the routes of their own clean images
  const auto x = other.x.to_vector();
  const std::vector<std::int32_t> some{3, 4, 17, 39};
  std::vector<T> rows, wanted;
  for (const auto i : some) {
    rows.insert(rows.end(), x.begin() + i * width, x.begin() + (i + 1) * width);
    wanted.insert(wanted.end(), held.begin() + i * classes, held.begin() + (i + 1) * classes);
  }
  const moxie::test::Buffer<T, B> part(backend, rows);
  CHECK(ask(frozen.target(), moxie::ConstMatrix<B>(part.view(4, width)), some) == wanted);
}

TEST_CASE_TEMPLATE("RA-E and RA-R: definitions, isolated and transferred", B, MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  const auto layer = image_mixture(backend, moxie::Dropless{});
  using L = std::remove_cvref_t<decltype(layer)>;
  AttackData<B> data(backend, images, width);
  data.label_by(backend, layer);
  const Pgd pgd{.threat = {.eps = 0.04}, .step = 0.01, .steps = 20};
  moxie::ExpertAttack<L> on_experts(layer, pgd, images);
  const auto isolated =
      on_experts(data.batch(), PartMode::isolated, data.adv(), data.standing.view());
  CHECK(isolated.images == images);
  CHECK(isolated.clean == images);
  CHECK(isolated.sa() == 100);
  CHECK(isolated.robust > 0);
  CHECK(isolated.robust < images);
  CHECK(isolated.ra() == doctest::Approx(100.0 * static_cast<double>(isolated.robust) / images));
  const auto transfer =
      on_experts(data.batch(), PartMode::transfer, data.adv(), data.standing.view());
  // By hand: what the whole model says of the images that were left
  moxie::RunAttack plain{moxie::LayerTarget{layer}, Pgd{}, images};
  moxie::test::Buffer<std::int32_t, B> right(backend, images, 0);
  plain.find_correct(data.adv(), data.y.view(), right.view());
  Index n = 0;
  for (const auto r : right.to_vector()) n += r;
  CHECK(transfer.robust == n);
  CHECK(data.standing.to_vector() == right.to_vector());

  const auto router = router_of(backend, layer);
  moxie::RouterAttack on_router(layer, moxie::LayerTarget{router}, pgd, images);
  const auto routed = on_router(data.batch(), PartMode::isolated, data.adv(), data.standing.view());
  // By hand: clean images under the routes of perturbed ones
  moxie::RunAttack frozen{moxie::FrozenRoutes<L>(layer, images), Pgd{}, images};
  frozen.target().record(data.adv());
  frozen.find_correct(data.batch(), right.view());
  CHECK(data.standing.to_vector() == right.to_vector());
  CHECK(routed.robust < images);  // some change their expert, and with it their class
  CHECK(routed.robust > 0);
  const auto moved = on_router(data.batch(), PartMode::transfer, data.adv(), data.standing.view());
  plain.find_correct(data.adv(), data.y.view(), right.view());
  CHECK(data.standing.to_vector() == right.to_vector());
  CHECK(moved.clean == images);

  // Where no image was right, none can be robust
  auto wrong = data.y.to_vector();
  for (auto& y : wrong) y = (y + 1) % static_cast<std::int32_t>(classes);
  data.y.assign(wrong);
  CHECK(on_experts(data.batch(), PartMode::isolated, data.adv(), data.standing.view()) ==
        moxie::RobustCount{.images = images});
}

TEST_CASE_TEMPLATE("isolated RA-E counts the last image, as the other three do", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  const auto layer = image_mixture(backend, moxie::Dropless{});
  using L = std::remove_cvref_t<decltype(layer)>;
  // Steps across the whole ball: many a point is wrong on the way and right at the end
  const Pgd pgd{.threat = {.eps = 0.15}, .step = 0.3, .steps = 8};
  AttackData<B> data(backend, images, width), any(backend, images, width);
  data.label_by(backend, layer);
  any.label_by(backend, layer);
  moxie::ExpertAttack<L> on_experts(layer, pgd, images);
  const auto isolated =
      on_experts(data.batch(), PartMode::isolated, data.adv(), data.standing.view());
  // By hand: the last images, under the routes of the clean ones
  moxie::RunAttack frozen{moxie::FrozenRoutes<L>(layer, images), pgd, images};
  frozen.target().record(any.batch().x);
  pgd.perturb(frozen.target(), any.batch(), frozen.state(), any.adv());
  frozen.find_correct(any.adv(), any.y.view(), any.standing.view());
  CHECK(data.standing.to_vector() == any.standing.to_vector());
  // Any image on the way breaks more
  any.standing.assign(std::vector<std::int32_t>(images, 1));
  frozen(any.batch(), any.adv(), any.standing.view());
  Index on_the_way = 0;
  for (const auto s : any.standing.to_vector()) on_the_way += s;
  CHECK(on_the_way < isolated.robust);
}

TEST_CASE("labels that are no classes and images outside the box are refused by every entry") {
  using B = moxie::CpuBackend<float>;
  B backend;
  const auto layer = image_mixture(backend, moxie::Dropless{});
  const auto router = router_of(backend, layer);
  const Pgd pgd = two_steps();
  AttackData<B> data = labelled_images(backend, layer);
  moxie::RunAttack attack{moxie::LayerTarget{layer}, pgd, images};
  moxie::RunAttack ensemble{
      moxie::LayerTarget{layer},
      moxie::AutoAttack{.height = 2, .width = 2, .channels = 3, .iterations = 2, .queries = 2},
      images};
  moxie::RunAttack unboxed{moxie::LayerTarget{layer}, moxie::vmoe_pgd(0.04, 2), images};
  moxie::ExpertAttack on_experts(layer, pgd, images);
  moxie::RouterAttack on_router(layer, moxie::LayerTarget{router}, pgd, images);
  moxie::LayeredRouterAttack on_routers(layer, pgd, images);
  const auto message = [](const auto& f) { return moxie::test::message_of<moxie::shape_error>(f); };
  const auto all_say = [&](const std::string& what) {
    const auto x_adv = data.adv();
    const auto standing = data.standing.view();
    CHECK(message([&] { moxie::evaluate_attack(attack, data.batch(), x_adv, standing); }) ==
          "moxie::evaluate_attack: " + what);
    CHECK(message([&] { moxie::evaluate_attack(ensemble, data.batch(), x_adv, standing); }) ==
          "moxie::evaluate_attack: " + what);
    CHECK(message([&] { attack(data.batch(), x_adv, standing); }) == "moxie::RunAttack: " + what);
    for (const PartMode mode : {PartMode::isolated, PartMode::transfer}) {
      CHECK(message([&] { on_experts(data.batch(), mode, x_adv, standing); }) ==
            "moxie::ExpertAttack: " + what);
      CHECK(message([&] { on_router(data.batch(), mode, x_adv, standing); }) ==
            "moxie::RouterAttack: " + what);
      CHECK(message([&] { on_routers(data.batch(), mode, x_adv, standing); }) ==
            "moxie::LayeredRouterAttack: " + what);
    }
    // Nothing was written
    CHECK(data.standing.to_vector() == std::vector<std::int32_t>(images, 1));
    CHECK(data.x_adv.to_vector() == std::vector<float>(images * width, -7.0F));
  };
  const auto right = data.y.to_vector();
  const auto inside = data.x.to_vector();
  for (const std::int32_t label : {9, 4, -1}) {
    auto y = right;
    y[2] = label;
    data.y.assign(y);
    const std::string what =
        "[2] is " + std::to_string(label) + ", expected 0 to 3 (the model's classes)";
    all_say("batch.y" + what);
    CHECK(message([&] { attack.find_correct(data.batch(), data.standing.view()); }) ==
          "moxie::RunAttack::find_correct: y" + what);
    CHECK(message([&] {
            pgd.perturb(attack.target(), data.batch(), attack.state(), data.adv());
          }) == "moxie::Pgd: batch.y" + what);
    data.y.assign(right);
    auto batch = data.batch();
    const moxie::test::Buffer<std::int32_t, B> wanted(backend, y);
    batch.target = wanted.view();
    CHECK(message([&] { pgd.perturb(attack.target(), batch, attack.state(), data.adv()); }) ==
          "moxie::Pgd: batch.target" + what);
  }
  for (const float pixel : {1.5F, -0.25F}) {
    auto x = inside;
    x[3 * width + 5] = pixel;
    data.x.assign(x);
    all_say(std::string("batch.x[3] has a pixel ") + (pixel > 0 ? "1.5" : "-0.25") +
            ", expected 0 to 1 (the threat's box)");
    CHECK(moxie::evaluate_attack(unboxed, data.batch(), data.adv(), data.standing.view()).images ==
          images);
    data.standing.assign(std::vector<std::int32_t>(images, 1));
    data.x_adv.assign(std::vector<float>(images * width, -7.0F));
  }
}

TEST_CASE("points that do not stand may have no class") {
  using B = moxie::CpuBackend<float>;
  B backend;
  const auto layer = image_mixture(backend, moxie::Dropless{});
  const Pgd pgd = two_steps();
  AttackData<B> data = labelled_images(backend, layer);
  moxie::RunAttack attack{moxie::LayerTarget{layer}, pgd, images};
  auto y = data.y.to_vector();
  auto x = data.x.to_vector();
  std::vector<std::int32_t> standing(images, 1);
  y[2] = -1;
  x[3 * width] = 7;
  standing[2] = standing[3] = 0;
  data.y.assign(y);
  data.x.assign(x);
  data.standing.assign(standing);
  attack(data.batch(), data.adv(), data.standing.view());
  const auto left = data.standing.to_vector();
  CHECK(left[2] == 0);
  CHECK(left[3] == 0);
  CHECK(std::count(left.begin(), left.end(), 1) > 0);
}

TEST_CASE("an attack on the router takes batches that name targets, for they are the model's") {
  using B = moxie::CpuBackend<float>;
  B backend;
  const auto layer = image_mixture(backend, moxie::Dropless{});
  const auto router = router_of(backend, layer);
  const Pgd pgd = two_steps();
  AttackData<B> data = labelled_images(backend, layer);
  moxie::RouterAttack on_router(layer, moxie::LayerTarget{router}, pgd, images);
  const auto plain =
      on_router(data.batch(), PartMode::transfer, data.adv(), data.standing.view()).robust;
  const auto found = data.x_adv.to_vector();
  // Class 3 is no expert
  const moxie::test::Buffer<std::int32_t, B> target(backend, images, 3);
  auto batch = data.batch();
  batch.target = target.view();
  CHECK(on_router(batch, PartMode::transfer, data.adv(), data.standing.view()).robust == plain);
  CHECK(data.x_adv.to_vector() == found);
  Pgd targeted = pgd;
  targeted.targeted = true;
  CHECK(moxie::test::message_of<moxie::config_error>(
            [&] { moxie::RouterAttack(layer, moxie::LayerTarget{router}, targeted, images); }) ==
        "moxie::RouterAttack: targeted is true, expected false: a router is driven away from "
        "its expert");
}

TEST_CASE("accuracies add up, margins are those of classes") {
  using B = moxie::CpuBackend<double>;
  B backend;
  moxie::RobustCount count{.images = 8, .clean = 6, .robust = 2};
  count += {.images = 2, .clean = 1, .robust = 1};
  CHECK(count.sa() == 70);
  CHECK(count.ra() == 30);
  CHECK(moxie::RobustCount{}.ra() == 0);
  const double scores[] = {3, 1, 0, 0, 2, 5, 1, 1, 0};
  const std::int32_t y[] = {0, 1, 0};
  moxie::ClassMargins margins(3);
  margins.add(backend, moxie::ConstMatrix<B>(scores, 3, 3), moxie::ConstIntVector<B>(y, 3));
  CHECK(margins.mean(0) == 1);  // (2 + 0) / 2
  CHECK(margins.mean(1) == -3);
  CHECK(margins.mean(2) == 0);
}

TEST_CASE("routes that cannot be replayed are refused") {
  using B = moxie::CpuBackend<double>;
  B backend;
  moxie::MoeLayer chosen{backend,
                         {.width = width, .experts = experts},
                         moxie::ExpertChoiceRouter{},
                         moxie::FixedCapacity{2},
                         moxie::FeedForward<moxie::Gelu>{.hidden = 4}};
  AttackData<B> data(backend, 4, width);
  moxie::RunAttack frozen{moxie::FrozenRoutes<decltype(chosen)>(chosen, 4), Pgd{}, 4};
  CHECK(moxie::test::message_of<moxie::config_error>(
            [&] { frozen.target().record(data.batch().x); }) ==
        "moxie::RecordedRoutes: in MoE layer 0 experts choose, tokens have no list of K choices "
        "that could be replayed");
  const auto layer = image_mixture(backend, moxie::Dropless{});
  const auto router = router_of(backend, layer);
  CHECK(moxie::test::message_of<moxie::config_error>([&] {
          moxie::RouterAttack(layer, moxie::LayerTarget{router}, Pgd{.random_start = false}, 4);
        }).starts_with("moxie::RouterAttack: random_start is false"));
  CHECK(moxie::test::message_of<moxie::config_error>([&] {
          moxie::RouterAttack(layer, moxie::LayerTarget{router}, Pgd{.restarts = 2}, 4);
        }) ==
        "moxie::RouterAttack: pgd.restarts is 2, expected 1: the last image of one start counts");
  CHECK(moxie::test::message_of<moxie::config_error>(
            [&] { moxie::ExpertAttack(layer, Pgd{.restarts = 2}, 4); }) ==
        "moxie::ExpertAttack: pgd.restarts is 2, expected 1: the last image of one start counts");
}

}  // namespace route_attack_test
