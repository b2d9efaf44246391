#include "moxie/train/joint_dual.hpp"

#include <cmath>
#include <filesystem>
#include <limits>

#include "device/allocations.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/networks.hpp"
#include "moxie/io/checkpoint.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/robust/alpha_sweep.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/train/rt_er.hpp"
#include "moxie/train/supervised.hpp"
#include "moxie/train/warm_start.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/numbers.hpp"

namespace joint_dual_test {

namespace {

using moxie::DualSpace;
using moxie::Index;
using moxie::RtEr;
using moxie::train::JointOptions;
using B = moxie::CpuBackend<double>;

constexpr Index width = 6, classes = 3, images = 12;

struct MakeMlp {
  template <moxie::Backend Any>
  moxie::Mlp<Any> operator()(const moxie::Scope<Any>& scope) const {
    return {scope, width, 8, classes};
  }
};
using Mixture = moxie::MoeLayer<B, moxie::TopKRouter, moxie::Dropless, moxie::Networks<MakeMlp>>;
using Dual = moxie::DualModel<Mixture, Mixture>;

Mixture mixture(const moxie::Scope<B>& scope) {
  return {scope,
          {.width = width, .experts = 3},
          moxie::TopKRouter{},
          moxie::Dropless{},
          moxie::Networks<MakeMlp>{{}, classes}};
}
Dual dual(B& backend, std::uint64_t seed = 7, const moxie::DualOptions& options = {}) {
  const auto scope = moxie::root(backend);
  Dual model(mixture(scope / "Standard"), mixture(scope / "Robust"), options);
  scope.parameters->initialize(seed);
  return model;
}

/// Images whose class is that of their largest part.
struct Data {
  std::vector<double> x = std::vector<double>(images * width);
  std::vector<double> labels = std::vector<double>(images * classes);
  std::vector<std::int32_t> y;

  Data() {
    const auto draw = moxie::test::normals(images * width, 9);
    for (Index i = 0; i < images; ++i) {
      const Index c = i % classes;
      y.push_back(static_cast<std::int32_t>(c));
      labels[static_cast<std::size_t>(i * classes + c)] = 1;
      for (Index j = 0; j < width; ++j)
        x[static_cast<std::size_t>(i * width + j)] =
            (j % classes == c ? 0.7 : 0.3) +
            0.05 * std::tanh(draw[static_cast<std::size_t>(i * width + j)]);
    }
  }
  moxie::Batch<B> batch() const {
    return {{x.data(), images, width}, {labels.data(), images, classes}};
  }
  moxie::AttackBatch<B> attacked() const {
    return {.x = {x.data(), images, width}, .y = {y.data(), images}, .seed = 5};
  }
};

const RtEr rt_er{.attack = {.pgd = {.threat = {.eps = 0.05}, .step = 0.02, .steps = 3}}, .beta = 2};
const moxie::AdamW adam{.decay = moxie::Decay::none()};

template <class V>
std::vector<double> copy(const V& v) {
  return {v.data, v.data + v.size};
}
std::vector<double> part(const moxie::Parameters<B>& p, const char* scope) {
  const auto run = p.range(scope).shared;
  return copy(p.values().middle(run.first, run.size));
}
template <class S>
std::vector<double> moments(const S& state) {
  std::vector<double> all{static_cast<double>(state.step())};
  for (const auto& m : state.moments()) {
    const auto values = copy(m.values);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

}  // namespace

TEST_CASE("the lower level changes no bit of the standard model or of the upper optimizer") {
  B backend;
  const Dual model = dual(backend);
  const Data data;
  auto& p = model.parameters();
  moxie::train::JointDualStep step{model, rt_er, moxie::Supervised{}, adam, images};
  step(data.batch(), 1e-2, {.seed = 1});  // so that there are moments
  const auto standard = part(p, "Standard");
  const auto robust = part(p, "Robust");
  const auto lower = moments(step.lower().optimizer_state());
  const auto upper = moments(step.upper().optimizer_state());
  step.lower()(data.batch(), 1e-2, {.seed = 1, .step = 1});
  CHECK(part(p, "Standard") == standard);
  CHECK(part(p, "Robust") != robust);
  CHECK(moments(step.upper().optimizer_state()) == upper);
  CHECK(moments(step.lower().optimizer_state()) != lower);
  // Its moments of the standard model stay zero
  const auto run = p.range("Standard").shared;
  for (const auto& m : step.lower().optimizer_state().moments())
    CHECK(moxie::test::all_zero(copy(m.values.middle(run.first, run.size))));
}

TEST_CASE("the upper level moves both models, or as released the standard one") {
  B backend;
  const Data data;
  for (const auto which : {JointOptions::Upper::both, JointOptions::Upper::standard}) {
    const Dual model = dual(backend);
    auto& p = model.parameters();
    moxie::train::JointDualStep step{model, rt_er,  moxie::Supervised{},
                                     adam,  images, JointOptions{.upper = which}};
    const auto standard = part(p, "Standard");
    const auto robust = part(p, "Robust");
    step.upper()(data.batch(), 1e-2, {.seed = 1});
    CHECK(part(p, "Standard") != standard);
    CHECK((part(p, "Robust") != robust) == (which == JointOptions::Upper::both));
  }
}

TEST_CASE("a joint step is the lower level, then the upper one on what it left") {
  B backend;
  const Dual together = dual(backend), apart = dual(backend);
  const Data data;
  moxie::train::JointDualStep step{together, rt_er, moxie::Supervised{}, adam, images};
  moxie::train::Step low{apart.robust(), rt_er, adam, apart.parameters().range("Robust"), images};
  moxie::train::Step up{apart, moxie::Supervised{}, adam, apart.parameters().range(), images};
  for (std::uint64_t t = 0; t < 3; ++t) {
    const moxie::Pass<B> pass{.seed = 1, .step = t};
    step(data.batch(), 1e-2, pass);
    low(data.batch(), 1e-2, pass);
    up(data.batch(), 1e-2, pass);
  }
  CHECK(copy(together.parameters().values()) == copy(apart.parameters().values()));
}

TEST_CASE("a joint step allocates nothing") {
  B backend;
  const Dual model = dual(backend);
  const Data data;
  moxie::train::JointDualStep step{model, rt_er, moxie::Supervised{}, adam, images};
  const int before = moxie::test::allocations();
  step(data.batch(), 1e-2, {.seed = 1});
  CHECK(moxie::test::allocations() == before);
}

TEST_CASE("a joint training goes on from a checkpoint bit for bit") {
  B backend;
  const Data data;
  const auto file = std::filesystem::temp_directory_path() / "moxie_joint_dual.safetensors";
  const auto train = [&](auto& step, std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t t = from; t < to; ++t)
      step(data.batch(), 1e-2, moxie::Pass<B>{.seed = 1, .step = t});
  };
  const Dual model = dual(backend);
  moxie::train::JointDualStep step{model, rt_er, moxie::Supervised{}, adam, images};
  train(step, 0, 2);
  moxie::save_checkpoint(file, model.parameters(), {},
                         moxie::NamedState{"lower", step.lower().optimizer_state()},
                         moxie::NamedState{"upper", step.upper().optimizer_state()});
  train(step, 2, 4);
  const Dual again = dual(backend, 99);
  moxie::train::JointDualStep more{again, rt_er, moxie::Supervised{}, adam, images};
  moxie::load_checkpoint(file, again.parameters(),
                         moxie::NamedState{"lower", more.lower().optimizer_state()},
                         moxie::NamedState{"upper", more.upper().optimizer_state()});
  train(more, 2, 4);
  CHECK(copy(model.parameters().values()) == copy(again.parameters().values()));
  std::filesystem::remove(file);
}

TEST_CASE("a dual model starts warm from two models") {
  B backend;
  const auto alone = [&](std::uint64_t seed) {
    const auto scope = moxie::root(backend);
    Mixture model = mixture(scope);
    scope.parameters->initialize(seed);
    return model;
  };
  const Mixture standard = alone(1), robust = alone(2);
  const Dual model = dual(backend);
  moxie::train::warm_start(standard.parameters(), model.parameters(), "Standard");
  moxie::train::warm_start(robust.parameters(), model.parameters(), "Robust");
  const Data data;
  const auto scores = [&](const auto& of) {
    std::vector<double> y(images * classes);
    auto tape = moxie::make_tape(of, images);
    of.forward(data.batch().x, {y.data(), images, classes}, tape, {.mode = moxie::Mode::eval});
    return y;
  };
  CHECK(scores(model.standard()) == scores(standard));
  CHECK(scores(model.robust()) == scores(robust));

  const auto values = copy(model.parameters().values());
  const moxie::Linear<B> other(moxie::root(backend), width, classes);
  other.parameters().initialize(1);
  CHECK(moxie::test::message_of<moxie::shape_error>([&] {
          moxie::train::warm_start(other.parameters(), model.parameters(), "Standard");
        }) ==
        "moxie::train::warm_start: there is no 'Standard/kernel' of 18 numbers in its shape, "
        "expected the same model");
  CHECK(copy(model.parameters().values()) == values);
}

TEST_CASE("the sweep of alpha ends at the two models, and leaves the options as they were") {
  B backend;
  Dual model = dual(backend, 7, {.alpha = 0.6, .space = DualSpace::probability});
  const Data data;
  moxie::train::Step low{model.robust(), rt_er, adam, model.parameters().range("Robust"), images};
  moxie::train::Step high{model.standard(), moxie::Supervised{}, adam,
                          model.parameters().range("Standard"), images};
  for (std::uint64_t t = 0; t < 30; ++t) {
    low(data.batch(), 1e-2, {.seed = 1, .step = t});
    high(data.batch(), 1e-2, {.seed = 1, .step = t});
  }
  const moxie::Pgd attack{.threat = {.eps = 0.2}, .step = 0.05, .steps = 10};
  moxie::AlphaSweep sweep(model, attack, {0, 0.5, 1}, images);
  sweep.add(data.attacked());
  sweep.add(data.attacked());
  const auto count = [&](const auto& of) {
    moxie::RunAttack run{moxie::LayerTarget{of}, attack, images};
    std::vector<double> x_adv(images * width);
    std::vector<std::int32_t> standing(images);
    return moxie::evaluate_attack(run, data.attacked(), {x_adv.data(), images, width},
                                  {standing.data(), images});
  };
  const auto twice = [](moxie::RobustCount c) {
    c += moxie::RobustCount(c);
    return c;
  };
  const auto& points = sweep.points();
  REQUIRE(points.size() == 3);
  CHECK(points[0].count == twice(count(model.standard())));
  CHECK(points[2].count == twice(count(model.robust())));
  CHECK(model.options() == moxie::DualOptions{.alpha = 0.6, .space = DualSpace::probability});
}

namespace {
/// An attack that fails in its third run.
struct FailsInThird : moxie::Pgd {
  int* runs;

  FailsInThird(const moxie::Pgd& pgd, int& count) : moxie::Pgd(pgd), runs(&count) {}
  template <moxie::AttackTarget M>
  void run(M& target, const moxie::AttackBatch<B>& batch, State<M>& s, moxie::Matrix<B> x_adv,
           moxie::IntVector<B> standing) const {
    if (++*runs == 3) moxie::throw_numeric("the third run");
    Pgd::run(target, batch, s, x_adv, standing);
  }
};
}  // namespace

TEST_CASE("a sweep of alpha that fails leaves points and options as they were") {
  B backend;
  Dual model = dual(backend, 7, {.alpha = 0.6, .space = DualSpace::probability});
  const Data data;
  const moxie::Pgd attack{.threat = {.eps = 0.2}, .step = 0.05, .steps = 2};
  CHECK(moxie::test::message_of<moxie::config_error>([&] {
          moxie::AlphaSweep(model, attack, {0.5, 2}, images);
        }) == "moxie::AlphaSweep: alpha is 2, expected one in [0, 1]");
  int runs = 0;
  moxie::AlphaSweep sweep(model, FailsInThird(attack, runs), {0, 1}, images);
  sweep.add(data.attacked());
  const auto points = sweep.points();
  CHECK(points[1].count.images == images);
  runs = 1;
  CHECK_THROWS_AS(sweep.add(data.attacked()), moxie::numeric_error);  // at its second alpha
  CHECK(sweep.points() == points);
  CHECK(model.options() == moxie::DualOptions{.alpha = 0.6, .space = DualSpace::probability});
}

TEST_CASE("a sweep of alpha as text") {
  const std::vector<moxie::AlphaPoint> points{
      {.alpha = 0.5, .count = {.images = 8, .clean = 6, .robust = 1}},
      {.alpha = 0.7, .count = {.images = 3, .clean = 1, .robust = 0}}};
  CHECK(moxie::to_csv(points) == "alpha,images,sa,ra\n0.5,8,75,12.5\n0.7,3,33.333333333333336,0\n");
  CHECK(moxie::to_json(points) ==
        "[{\"alpha\": 0.5, \"images\": 8, \"sa\": 75, \"ra\": 12.5}, "
        "{\"alpha\": 0.7, \"images\": 3, \"sa\": 33.333333333333336, \"ra\": 0}]");
}

TEST_CASE("where the upper level throws, what the lower one did stands") {
  B backend;
  const Dual model = dual(backend);
  Data data;
  auto& p = model.parameters();
  moxie::train::JointDualStep step{model, rt_er, moxie::Supervised{}, adam, images};
  // The lower level does not look at the standard model, of which the upper one can make nothing
  const auto run = p.range("Standard").shared;
  const auto values = p.edit();
  for (Index i = run.first; i < run.first + run.size; ++i)
    values[i] = std::numeric_limits<double>::infinity();
  const auto standard = part(p, "Standard");
  const auto robust = part(p, "Robust");
  const auto upper = moments(step.upper().optimizer_state());
  CHECK_THROWS_AS(step(data.batch(), 1e-2, {.seed = 1}), moxie::numeric_error);
  CHECK(part(p, "Robust") != robust);
  CHECK(part(p, "Standard") == standard);
  CHECK(moments(step.upper().optimizer_state()) == upper);
}

TEST_CASE("joint training refuses to train probabilities") {
  B backend;
  const Dual model = dual(backend, 7, {.space = DualSpace::probability});
  CHECK(moxie::test::message_of<moxie::config_error>([&] {
          moxie::train::JointDualStep(model, rt_er, moxie::Supervised{}, adam, images);
        }) ==
        "moxie::train::JointDualStep: the model mixes probabilities, expected DualSpace::logit or "
        "log_probability in training: the loss takes scores");
}

}  // namespace joint_dual_test
