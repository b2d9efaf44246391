#include "moxie/robust/pgd.hpp"

#include <cmath>

#include "device/allocations.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "robust/models.hpp"
#include "support/errors.hpp"

namespace {

using moxie::Index;
using moxie::Norm;
using moxie::Pgd;
using moxie::test::AttackData;

template <class T>
std::vector<double> as_double(const std::vector<T>& v) {
  return {v.begin(), v.end()};
}

}  // namespace

TEST_CASE_TEMPLATE("PGD by hand: steps stop at ball and box", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  // CE of class 0 grows against pixel 0 and with pixel 1
  const auto model = moxie::test::linear_model(backend, 2, {1, -1, -1, 1}, {0, 0});
  const Pgd pgd{.step = 2.0 / 255, .random_start = false};
  AttackData<B> data(backend, 1, 2);
  data.x.assign({T(0.01), T(0.5)});
  data.x_adv.assign({T(0.01), T(0.5)});
  moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, 1};
  pgd.begin(attack.target(), attack.state(), 1);
  pgd.iterate(attack.target(), data.batch(), attack.state(), data.adv());
  moxie::test::check_near(data.x_adv.to_vector(), {0.01 - 2.0 / 255, 0.5 + 2.0 / 255}, 1e-6);
  for (int i = 0; i < 4; ++i)
    pgd.iterate(attack.target(), data.batch(), attack.state(), data.adv());
  moxie::test::check_near(data.x_adv.to_vector(), {0, 0.53137255}, 1e-6);
}

TEST_CASE_TEMPLATE("PGD reaches the optimum of a linear model", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  constexpr Index images = 9, width = 21;
  const auto kernel = moxie::test::normals(2 * width, 4);
  const auto model = moxie::test::linear_model(backend, width, kernel, {0.1, -0.1});
  for (const Norm norm : {Norm::linf, Norm::l2}) {
    // Pixels away from the box: then the optimum of both norms has a closed form
    AttackData<B> data(backend, images, width);
    auto inner = data.x.to_vector();
    for (T& v : inner) v = T(0.3) + T(0.4) * v;
    data.x.assign(inner);
    const double eps = norm == Norm::linf ? 0.05 : 0.25;
    const Pgd pgd{.threat = {.norm = norm, .eps = eps}, .step = eps / 4, .steps = 60};
    moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, images};
    pgd.perturb(attack.target(), data.batch(), attack.state(), data.adv());
    double length = 0;
    for (Index j = 0; j < width; ++j) {
      const double w =
          kernel[static_cast<std::size_t>(2 * j + 1)] - kernel[static_cast<std::size_t>(2 * j)];
      length += w * w;
    }
    const auto got = data.x_adv.to_vector();
    for (Index i = 0; i < images; ++i)
      for (Index j = 0; j < width; ++j) {
        const auto at = static_cast<std::size_t>(i * width + j);
        const double w =
            kernel[static_cast<std::size_t>(2 * j + 1)] - kernel[static_cast<std::size_t>(2 * j)];
        const double d = norm == Norm::linf ? std::copysign(eps, w) : eps * w / std::sqrt(length);
        CHECK(static_cast<double>(got[at]) == doctest::Approx(static_cast<double>(inner[at]) + d)
                                                  .epsilon(norm == Norm::linf ? 1e-6 : 2e-3));
      }
  }
}

TEST_CASE_TEMPLATE(
    "PGD breaks what can be broken, inside ball and box, and leaves other rows alone", B,
    MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  constexpr Index images = 40, width = 12;
  const auto model = moxie::test::curved_model(backend, width, 16, 4);
  for (const Norm norm : {Norm::linf, Norm::l2}) {
    AttackData<B> data(backend, images, width);
    data.label_by(backend, model);
    const double eps = norm == Norm::linf ? 0.04 : 0.12;
    moxie::RunAttack attack{moxie::LayerTarget{model},
                            Pgd{.threat = {.norm = norm, .eps = eps}, .step = eps / 4}, images};
    std::vector<std::int32_t> start(images, 1);
    start[3] = start[7] = 0;  // fell before: none of our business
    data.standing.assign(start);
    attack(data.batch(), data.adv(), data.standing.view());
    const int broken = moxie::test::check_fallen(backend, data, attack, start);
    CHECK(broken > 3);
    CHECK(broken < images - 3);
  }
}

TEST_CASE_TEMPLATE("broken points leave the batch and are not asked again", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  constexpr Index images = 30, width = 12;
  const auto model = moxie::test::curved_model(backend, width, 16, 4);
  AttackData<B> data(backend, images, width);
  data.label_by(backend, model);
  typename moxie::test::Asked<moxie::LayerTarget<moxie::Mlp<B>>>::Notes notes;
  const Pgd pgd{.threat = {.eps = 0.05}, .step = 0.01, .steps = 12, .restarts = 2};
  moxie::RunAttack attack{moxie::test::Asked(moxie::LayerTarget{model}, notes, images), pgd,
                          images};
  attack(data.batch(), data.adv(), data.standing.view());
  const auto standing = data.standing.to_vector();
  int early = 0, full = 0;
  for (std::size_t i = 0; i < images; ++i) {
    if (standing[i] != 0) {
      CHECK(notes.scores[i] == 2 * 13);  // twelve steps and the last look, twice
      CHECK(notes.gradients[i] == 2 * 12);
      ++full;
    } else if (notes.scores[i] < 13) {
      ++early;
    }
  }
  CHECK(full > 0);
  CHECK(early > 0);
  const auto found = data.x_adv.to_vector();
  const auto before = notes.scores;
  attack(data.batch(99), data.adv(), data.standing.view());
  for (std::size_t i = 0; i < images; ++i)
    if (standing[i] == 0) CHECK(notes.scores[i] == before[i]);
  const auto later = data.x_adv.to_vector();
  for (std::size_t i = 0; i < images; ++i)
    if (standing[i] == 0)
      for (std::size_t j = i * width; j < (i + 1) * width; ++j) REQUIRE(later[j] == found[j]);
}

TEST_CASE("PGD gives the same bits for any threads and any split of the set") {
  using B = moxie::CpuBackend<float>;
  constexpr Index images = 23, width = 30;
  std::vector<float> wanted;
  std::vector<std::int32_t> wanted_standing;
  for (const int threads : {1, 2, 3}) {
    moxie::ThreadPool pool(threads);
    B backend(pool);
    const auto model = moxie::test::curved_model(backend, width, 16, 4);
    for (const Index size : {images, Index{5}, Index{1}}) {
      AttackData<B> data(backend, images, width);
      data.label_by(backend, model);
      moxie::RunAttack attack{moxie::LayerTarget{model},
                              Pgd{.threat = {.eps = 0.03}, .step = 0.01, .restarts = 2}, images};
      moxie::test::attack_in_batches(data, size, attack);
      if (wanted.empty()) {
        wanted = data.x_adv.to_vector();
        wanted_standing = data.standing.to_vector();
      }
      CHECK(data.x_adv.to_vector() == wanted);
      CHECK(data.standing.to_vector() == wanted_standing);
    }
  }
}

TEST_CASE("a targeted PGD goes to its class and another seed or restart starts elsewhere") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index images = 12, width = 10, classes = 4;
  const auto model = moxie::test::curved_model(backend, width, 16, classes);
  AttackData<B> data(backend, images, width);
  data.label_by(backend, model);
  auto target = data.y.to_vector();
  for (auto& t : target) t = (t + 1) % classes;
  const moxie::test::Buffer<std::int32_t, B> targets(backend, target);
  const Pgd pgd{.threat = {.eps = 1}, .step = 0.05, .steps = 80, .targeted = true};
  moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, images};
  auto batch = data.batch();
  CHECK(moxie::test::message_of<moxie::shape_error>([&] {
          pgd.perturb(attack.target(), batch, attack.state(), data.adv());
        }) == "moxie::Pgd: the attack is targeted and the batch has no targets");
  batch.target = targets.view();
  pgd.perturb(attack.target(), batch, attack.state(), data.adv());
  moxie::test::Buffer<std::int32_t, B> there(backend, images, 0);
  attack.find_correct(data.adv(), targets.view(), there.view());
  int hits = 0;
  for (const auto h : there.to_vector()) hits += h;
  CHECK(hits >= images / 2);

  const Pgd only_start{.steps = 0};
  const auto start = [&](std::uint64_t seed) {
    only_start.perturb(attack.target(), data.batch(seed), attack.state(), data.adv());
    return data.x_adv.to_vector();
  };
  CHECK(start(5) == start(5));
  CHECK(start(5) != start(6));
}

TEST_CASE("each restart begins elsewhere: starts alone break more images the more there are") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index images = 200;
  // Wrong where the pixels' sum is above 1.02: about a third of the cube around (.5, .5)
  const auto model = moxie::test::linear_model(backend, 2, {-1, 1, -1, 1}, {1.02, -1.02});
  for (const Norm norm : {Norm::linf, Norm::l2}) {
    const auto broken = [&](int restarts) {
      AttackData<B> data(backend, images, 2);
      data.x.assign(std::vector<double>(2 * images, 0.5));
      moxie::RunAttack attack{
          moxie::LayerTarget{model},
          Pgd{.threat = {.norm = norm, .eps = 0.05}, .steps = 0, .restarts = restarts}, images};
      attack(data.batch(), data.adv(), data.standing.view());
      return moxie::test::check_fallen(backend, data, attack, std::vector<std::int32_t>(images, 1));
    };
    const int one = broken(1), two = broken(2), eight = broken(8);
    CHECK(one > images / 6);
    CHECK(one < images / 2);
    CHECK(two > one + images / 12);
    CHECK(eight > images * 8 / 10);
  }
}

TEST_CASE("V-MoE's PGD takes equal steps that neither ball nor box stops") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto model = moxie::test::linear_model(backend, 2, {1, -1, -1, 1}, {0, 0});
  AttackData<B> data(backend, 1, 2);
  data.x.assign({0.01, 0.999});
  const Pgd pgd = moxie::vmoe_pgd(0.04, 8);
  CHECK(pgd.step == 0.005);
  CHECK(moxie::vmoe_pgd(1.0 / 127.5).steps == 40);
  moxie::RunAttack attack{moxie::LayerTarget{model}, pgd, 1};
  pgd.perturb(attack.target(), data.batch(), attack.state(), data.adv());
  moxie::test::check_near(data.x_adv.to_vector(), {-0.03, 1.039}, 1e-14);
}

TEST_CASE(
    "PGD allocates nothing, touches no gradient of a parameter, and disturbs no pending pass") {
  using B = moxie::CpuBackend<float>;
  B backend;
  constexpr Index images = 8, width = 12;
  const auto model = moxie::test::curved_model(backend, width, 16, 4);
  AttackData<B> data(backend, images, width);
  data.label_by(backend, model);
  moxie::RunAttack attack{moxie::LayerTarget{model}, Pgd{.restarts = 3}, images};
  // A training pass that waits for its backward
  auto tape = moxie::make_tape(model, images);
  moxie::test::Buffer<float, B> y(backend, images * 4, 0), once(backend, images * width, 0),
      twice(backend, images * width, 0);
  model.forward(data.batch().x, y.view(images, 4), tape, {});
  model.parameters().zero_gradients();
  const int before = moxie::test::allocations();
  attack(data.batch(), data.adv(), data.standing.view());
  CHECK(moxie::test::allocations() == before);
  const moxie::ConstVector<B> gradients = model.parameters().gradients();
  for (Index i = 0; i < gradients.size; ++i) REQUIRE(gradients[i] == 0.0F);
  model.backward(y.view(images, 4), once.view(images, width), tape);
  model.forward(data.batch().x, y.view(images, 4), tape, {});
  model.backward(y.view(images, 4), twice.view(images, width), tape);
  CHECK(once.to_vector() == twice.to_vector());
}

TEST_CASE("attacks refuse what does not fit before they write anything") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto model = moxie::test::linear_model(backend, 2, {1, -1, -1, 1}, {0, 0});
  AttackData<B> data(backend, 3, 2);
  moxie::RunAttack attack{moxie::LayerTarget{model}, Pgd{}, 2};
  const auto message = [&](const auto& f) { return moxie::test::message_of<moxie::error>(f); };
  CHECK(message([&] { attack(data.batch(), data.adv(), data.standing.view()); }) ==
        "moxie::Pgd: the batch has 3 images, the state was made for at most 2");
  CHECK(message([&] { attack(data.part(0, 2), data.adv(), data.standing.view()); }) ==
        "moxie::Pgd: x_adv is [3 x 2], expected [2 x 2]");
  CHECK(message([&] { attack(data.part(0, 2), data.adv(0, 2), data.standing.view()); }) ==
        "moxie::Pgd: standing has 3 entries, expected 2");
  const auto make = [&](const Pgd& pgd) {
    return message([&] { moxie::RunAttack(moxie::LayerTarget{model}, pgd, 2); });
  };
  CHECK(make({.random_start = false, .restarts = 2}) ==
        "moxie::Pgd: restarts is 2 without random_start: every start would be the same");
  CHECK(make({.steps = -1}) == "moxie::Pgd: steps is -1, expected >= 0");
  const std::int32_t choice[] = {0, 0};
  const moxie::Routes<B> routes{.choice = {choice, 2, 1}};
  CHECK(message([&] {
          moxie::LayerTarget(model, {.routes = {&routes, 1}});
        }).starts_with("moxie::LayerTarget: the pass names routes of certain tokens"));
}
