#include <algorithm>
#include <cmath>

#include "device/allocations.hpp"

#include "moxie/robust/apgd.hpp"
#include "moxie/robust/metrics.hpp"
#include "robust/small_moe.hpp"

namespace vit_attack_test {

namespace {

using moxie::Index;
using moxie::PartMode;
using moxie::Pgd;
using moxie::test::AttackData;
using B = moxie::CpuBackend<double>;

using moxie::test::small_moe;
constexpr auto images = moxie::test::moe_images;
constexpr auto pixels = moxie::test::moe_pixels;
constexpr auto classes = moxie::test::moe_classes;
constexpr auto tokens = moxie::test::moe_tokens;

}  // namespace

TEST_CASE("attacks on a V-MoE do not depend on who is left in the batch, drops and all") {
  B backend;
  const auto model = small_moe(backend);
  std::vector<double> wanted;
  for (const Index size : {images, Index{5}, Index{1}}) {
    AttackData<B> data(backend, images, pixels);
    data.label_by(backend, model);
    moxie::RunAttack pgd{moxie::LayerTarget{model}, Pgd{.threat = {.eps = 0.1}, .step = 0.02},
                         images};
    moxie::RunAttack apgd{moxie::LayerTarget{model},
                          moxie::Apgd{.threat = {.eps = 0.2}, .iterations = 20}, images};
    for (Index first = 0; first < images; first += size) {
      const Index n = size < images - first ? size : images - first;
      const auto standing = data.standing.view().middle(first, n);
      pgd(data.part(first, n), data.adv(first, n), standing);
      apgd(data.part(first, n), data.adv(first, n), standing);
    }
    if (wanted.empty()) wanted = data.x_adv.to_vector();
    CHECK(data.x_adv.to_vector() == wanted);
    Index left = 0;
    for (const auto s : data.standing.to_vector()) left += s;
    CHECK(left < images);
  }
}

TEST_CASE(
    "routes of every layer stay those of their own image, and gradients go through experts alone") {
  B backend;
  const auto model = small_moe(backend);
  using L = moxie::Vit<B>;
  AttackData<B> data(backend, images, pixels, 17), other(backend, images, pixels, 18);
  moxie::RunAttack frozen{moxie::FrozenRoutes<L>(model, images), Pgd{}, images};
  auto& target = frozen.target();
  target.record(data.batch().x);
  CHECK(target.routes().layers() == 2);
  CHECK(target.routes().choice(1).rows == images * tokens);
  Index dropped = 0;
  const auto choice = target.routes().choice(0);
  for (Index t = 0; t < choice.rows; ++t)
    for (Index k = 0; k < choice.cols; ++k) dropped += choice(t, k) < -1 ? 1 : 0;
  CHECK(dropped > 0);

  std::vector<std::int32_t> all(images);
  for (std::size_t i = 0; i < images; ++i) all[i] = static_cast<std::int32_t>(i);
  const auto scores = [&](const std::vector<double>& x, const std::vector<std::int32_t>& who) {
    const auto n = static_cast<Index>(who.size());
    std::vector<double> y(who.size() * classes);
    target.scores({x.data(), n, pixels}, {who.data(), n}, {y.data(), n, classes});
    return y;
  };
  const auto x = other.x.to_vector();
  const auto held = scores(x, all);
  const std::vector<std::int32_t> some{2, 5, 13};
  std::vector<double> rows, wanted;
  for (const auto i : some) {
    rows.insert(rows.end(), x.begin() + i * pixels, x.begin() + (i + 1) * pixels);
    wanted.insert(wanted.end(), held.begin() + i * classes, held.begin() + (i + 1) * classes);
  }
  CHECK(scores(rows, some) == wanted);

  // With routes and gates constant the scores are smooth: the gradient is that of differences
  const auto dy = moxie::test::normals(3 * classes, 9);
  std::vector<double> dx(rows.size());
  scores(rows, some);
  target.gradient({dy.data(), 3, classes}, {dx.data(), 3, pixels});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto loss = [&](double shift) {
      auto moved = rows;
      moved[i] += shift;
      const auto y = scores(moved, some);
      double sum = 0;
      for (std::size_t j = 0; j < y.size(); ++j) sum += y[j] * dy[j];
      return sum;
    };
    CHECK(dx[i] == doctest::Approx((loss(1e-5) - loss(-1e-5)) / 2e-5).epsilon(1e-6).scale(1));
  }
}

TEST_CASE("a target can be the second-ranked experts, RA-E of a V-MoE counts as defined") {
  B backend;
  const auto model = small_moe(backend);
  using L = moxie::Vit<B>;
  AttackData<B> data(backend, images, pixels);
  data.label_by(backend, model);
  const moxie::Routes<B> second[] = {{.rank = 1}, {.rank = 1}};
  const Pgd pgd{.threat = {.eps = 0.1}, .step = 0.02};
  moxie::RunAttack plain{moxie::LayerTarget{model}, pgd, images};
  moxie::RunAttack ranked{moxie::LayerTarget{model, {.routes = second}}, pgd, images};
  moxie::test::Buffer<double, B> one(backend, images * pixels, 0);
  pgd.perturb(plain.target(), data.batch(), plain.state(), data.adv());
  pgd.perturb(ranked.target(), data.batch(), ranked.state(), one.view(images, pixels));
  CHECK(one.to_vector() != data.x_adv.to_vector());

  moxie::ExpertAttack<L> experts(model, pgd, images);
  const auto count = experts(data.batch(), PartMode::isolated, data.adv(), data.standing.view());
  CHECK(count.clean == images);
  CHECK(count.robust < images);
  // Each that fell is wrong under the routes of its clean image
  moxie::RunAttack frozen{moxie::FrozenRoutes<L>(model, images), pgd, images};
  frozen.target().record(data.batch().x);
  auto found = data.x.to_vector();
  const auto standing = data.standing.to_vector();
  const auto adv = data.x_adv.to_vector();
  for (std::size_t i = 0; i < found.size(); ++i)
    if (standing[i / pixels] == 0) found[i] = adv[i];
  const moxie::test::Buffer<double, B> mixed(backend, found);
  moxie::test::Buffer<std::int32_t, B> right(backend, images, 0);
  frozen.find_correct(moxie::ConstMatrix<B>(mixed.view(images, pixels)), data.y.view(),
                      right.view());
  CHECK(right.to_vector() == standing);
}

TEST_CASE("an attack on a V-MoE touches no gradient of a parameter and allocates nothing") {
  B backend;
  const auto model = small_moe(backend);
  AttackData<B> data(backend, images, pixels);
  data.label_by(backend, model);
  const auto gradients = model.parameters().gradients();
  for (Index i = 0; i < gradients.size; ++i) gradients[i] = 7;
  const Pgd pgd{.threat = {.eps = 0.1}, .step = 0.02};
  moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, images};
  pgd.perturb(attack.target(), data.batch(), attack.state(), data.adv());
  const auto wanted = data.x_adv.to_vector();
  const int before = moxie::test::allocations();
  pgd.perturb(attack.target(), data.batch(), attack.state(), data.adv());
  attack(data.batch(), data.adv(), data.standing.view());
  CHECK(moxie::test::allocations() == before);
  CHECK(std::all_of(gradients.data, gradients.data + gradients.size,
                    [](double g) { return g == 7; }));
  pgd.perturb(attack.target(), data.batch(), attack.state(), data.adv());
  CHECK(data.x_adv.to_vector() == wanted);
}

}  // namespace vit_attack_test
