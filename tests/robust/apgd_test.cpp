#include "moxie/robust/apgd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "device/allocations.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "robust/models.hpp"
#include "support/errors.hpp"

namespace {

using moxie::Apgd;
using moxie::AttackLoss;
using moxie::Index;
using moxie::test::AttackData;

std::vector<Index> checkpoints(Index iterations) {
  moxie::ApgdSchedule schedule(iterations);
  std::vector<Index> ends;
  for (Index i = 0; i < iterations; ++i) {
    if (schedule.ends_window()) ends.push_back(i + 1);
    schedule.advance();
  }
  return ends;
}

}  // namespace

TEST_CASE("APGD's checkpoints by hand") {
  CHECK(checkpoints(100) == std::vector<Index>{22, 41, 57, 70, 80, 87, 93, 99});
  CHECK(checkpoints(50) == std::vector<Index>{11, 21, 30, 38, 45});
  CHECK(checkpoints(10) == std::vector<Index>{2, 3, 4, 5, 6, 7, 8, 9, 10});
  CHECK(checkpoints(0).empty());
}

TEST_CASE_TEMPLATE("losses of attacks by hand, and their gradients by differences", B,
                   MOXIE_DOUBLE_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  const std::vector<double> z{3, 1, 0, -1};
  moxie::test::Buffer<double, B> scores(backend, z), loss(backend, 1, 0), d(backend, 4, 0);
  const moxie::test::Buffer<std::int32_t, B> image(backend, {0});
  moxie::test::Buffer<std::int32_t, B> y(backend, {0}), t(backend, {1}), fooled(backend, {7});
  const auto at = [&](AttackLoss kind, std::int32_t own, std::int32_t target) {
    y.assign({own});
    t.assign({target});
    moxie::attack_losses(backend, kind, moxie::ConstMatrix<B>(scores.view(1, 4)),
                         moxie::ConstIntVector<B>(image.view()), moxie::ConstIntVector<B>(y.view()),
                         moxie::ConstIntVector<B>(t.view()), loss.view(), d.view(1, 4),
                         fooled.view());
    return loss.to_vector()[0];
  };
  CHECK(at(AttackLoss::dlr, 0, 0) == doctest::Approx(-2.0 / 3));
  CHECK(fooled.to_vector()[0] == 0);
  CHECK(at(AttackLoss::dlr, 1, 0) == doctest::Approx(2.0 / 3));
  CHECK(fooled.to_vector()[0] == 1);
  CHECK(at(AttackLoss::targeted_dlr, 0, 1) == doctest::Approx(-2 / 3.5));
  CHECK(at(AttackLoss::margin, 0, 0) == -2);
  CHECK(at(AttackLoss::margin, 1, 0) == 2);
  CHECK(at(AttackLoss::target_margin, 0, 3) == -4);
  const double sum = std::exp(3) + std::exp(1) + 1 + std::exp(-1);
  CHECK(at(AttackLoss::cross_entropy, 1, 0) == doctest::Approx(std::log(sum) - 1));
  CHECK(at(AttackLoss::targeted_cross_entropy, 1, 0) == doctest::Approx(3 - std::log(sum)));
  for (const auto kind :
       {AttackLoss::cross_entropy, AttackLoss::targeted_cross_entropy, AttackLoss::margin,
        AttackLoss::target_margin, AttackLoss::dlr, AttackLoss::targeted_dlr})
    for (std::int32_t own = 0; own < 4; ++own)
      for (std::int32_t target = 0; target < 4; ++target) {
        scores.assign(z);
        at(kind, own, target);
        const auto gradient = d.to_vector();
        for (std::size_t j = 0; j < 4; ++j) {
          auto moved = z;
          moved[j] += 1e-5;
          scores.assign(moved);
          const double up = at(kind, own, target);
          moved[j] -= 2e-5;
          scores.assign(moved);
          CHECK(gradient[j] ==
                doctest::Approx((up - at(kind, own, target)) / 2e-5).epsilon(1e-6).scale(1));
        }
      }
}

TEST_CASE_TEMPLATE("scores that are not numbers are no right answer, and reach no other row", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const moxie::test::Buffer<T, B> scores(
      backend, {3, 1, 0, -1, nan, nan, nan, nan, 3, 1, nan, -1, 3, 1, 0, -1});
  moxie::test::Buffer<T, B> loss(backend, 4, 0), d(backend, 16, 0);
  const moxie::test::Buffer<std::int32_t, B> image(backend, {0, 1, 2, 3}), y(backend, 4, 0),
      target(backend, 4, 1);
  moxie::test::Buffer<std::int32_t, B> fooled(backend, 4, 7);
  for (const auto kind :
       {AttackLoss::cross_entropy, AttackLoss::targeted_cross_entropy, AttackLoss::margin,
        AttackLoss::target_margin, AttackLoss::dlr, AttackLoss::targeted_dlr}) {
    moxie::attack_losses(backend, kind, moxie::ConstMatrix<B>(scores.view(4, 4)),
                         moxie::ConstIntVector<B>(image.view()), moxie::ConstIntVector<B>(y.view()),
                         moxie::ConstIntVector<B>(target.view()), loss.view(), d.view(4, 4),
                         fooled.view());
    CHECK(fooled.to_vector() == std::vector<std::int32_t>{0, 1, 1, 0});
    const auto losses = loss.to_vector(), gradient = d.to_vector();
    CHECK(std::isnan(losses[1]));
    CHECK(std::isnan(losses[2]));
    CHECK(losses[0] == losses[3]);
    for (std::size_t j = 0; j < 4; ++j) {
      CHECK(gradient[j] == gradient[12 + j]);
      CHECK(gradient[4 + j] == 0);
      CHECK(gradient[8 + j] == 0);
    }
  }
  moxie::test::Buffer<std::int32_t, B> standing(backend, 4, 7);
  backend.for_each(
      4, moxie::detail::CorrectPoint<B>{moxie::ConstMatrix<B>(scores.view(4, 4)),
                                        moxie::ConstIntVector<B>(y.view()), standing.view()});
  CHECK(standing.to_vector() == std::vector<std::int32_t>{1, 0, 0, 1});
  moxie::test::Buffer<T, B> hits(backend, 4, 7);
  const moxie::test::Buffer<T, B> labels(backend, {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0});
  moxie::correct_rows(backend, moxie::ConstMatrix<B>(scores.view(4, 4)),
                      moxie::ConstMatrix<B>(labels.view(4, 4)), hits.view());
  CHECK(hits.to_vector() == std::vector<T>{1, 0, 0, 0});
}

TEST_CASE_TEMPLATE("APGD reaches the corner that is worst for a linear model", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  constexpr Index images = 5, width = 24;
  const auto kernel = moxie::test::normals(2 * width, 4);
  const auto model = moxie::test::linear_model(backend, width, kernel, {3, -3});
  AttackData<B> data(backend, images, width);
  const double eps = 0.1;
  const Apgd apgd{.threat = {.eps = eps}, .keep_broken = true};
  moxie::RunAttack attack{moxie::LayerTarget{model}, apgd, images};
  attack(data.batch(), data.adv(), data.standing.view());
  const auto x = data.x.to_vector();
  std::vector<T> best(static_cast<std::size_t>(images * width));
  backend.copy_to_host(best.data(), attack.state().points.best.data, best.size() * sizeof(T));
  for (Index i = 0; i < images * width; ++i) {
    const auto j = static_cast<std::size_t>(i % width);
    const double w = kernel[2 * j + 1] - kernel[2 * j];
    const double to = static_cast<double>(x[static_cast<std::size_t>(i)]) + std::copysign(eps, w);
    CHECK(static_cast<double>(best[static_cast<std::size_t>(i)]) ==
          doctest::Approx(std::clamp(to, 0.0, 1.0)).epsilon(1e-6).scale(1));
  }
}

TEST_CASE_TEMPLATE("every loss of APGD breaks points inside the ball, more than PGD's few steps", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  constexpr Index images = 40, width = 12;
  const auto model = moxie::test::curved_model(backend, width, 16, 5);
  for (const auto loss : {AttackLoss::cross_entropy, AttackLoss::dlr, AttackLoss::targeted_dlr}) {
    AttackData<B> data(backend, images, width);
    data.label_by(backend, model);
    const double eps = 0.04;
    moxie::RunAttack attack{moxie::LayerTarget{model},
                            Apgd{.threat = {.eps = eps}, .loss = loss, .iterations = 40}, images};
    attack(data.batch(), data.adv(), data.standing.view());
    const int broken =
        moxie::test::check_fallen(backend, data, attack, std::vector<std::int32_t>(images, 1));
    CHECK(broken > 5);
    CHECK(broken < images - 5);
  }
}

TEST_CASE("APGD gives the same bits for any threads and any split of the set") {
  using B = moxie::CpuBackend<float>;
  constexpr Index images = 13, width = 20;
  for (const auto loss : {AttackLoss::cross_entropy, AttackLoss::targeted_dlr}) {
    std::vector<float> wanted;
    for (const int threads : {1, 2, 3}) {
      moxie::ThreadPool pool(threads);
      B backend(pool);
      const auto model = moxie::test::curved_model(backend, width, 16, 5);
      for (const Index size : {images, Index{4}}) {
        AttackData<B> data(backend, images, width);
        data.label_by(backend, model);
        moxie::RunAttack attack{
            moxie::LayerTarget{model},
            Apgd{.threat = {.eps = 0.02}, .loss = loss, .iterations = 20, .restarts = 2}, images};
        moxie::test::attack_in_batches(data, size, attack);
        if (wanted.empty()) wanted = data.x_adv.to_vector();
        CHECK(data.x_adv.to_vector() == wanted);
      }
    }
  }
}

TEST_CASE("APGD asks points a fixed number of times, the broken no more, and allocates nothing") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index images = 30, width = 12, classes = 5;
  const auto model = moxie::test::curved_model(backend, width, 16, classes);
  AttackData<B> data(backend, images, width);
  data.label_by(backend, model);
  const Apgd apgd{.threat = {.eps = 0.03}, .loss = AttackLoss::targeted_dlr, .iterations = 15};
  moxie::test::Asked<moxie::LayerTarget<moxie::Mlp<B>>>::Notes notes;
  moxie::RunAttack attack{moxie::test::Asked(moxie::LayerTarget{model}, notes, images), apgd,
                          images};
  attack(data.batch(), data.adv(), data.standing.view());
  const auto standing = data.standing.to_vector();
  int full = 0, early = 0;
  for (std::size_t i = 0; i < images; ++i) {
    const int all = 1 + (classes - 1) * 16;  // the clean image; four targets from a start
    full += standing[i] != 0 && notes.scores[i] == all ? 1 : 0;
    early += standing[i] == 0 && notes.scores[i] < all ? 1 : 0;
    CHECK(notes.scores[i] <= all);
  }
  CHECK(full > 0);
  CHECK(early > 0);

  AttackData<B> again(backend, images, width);
  again.label_by(backend, model);
  moxie::RunAttack plain{moxie::LayerTarget{model}, apgd, images};
  const int before = moxie::test::allocations();
  plain(again.batch(), again.adv(), again.standing.view());
  CHECK(moxie::test::allocations() == before);
  CHECK(again.standing.to_vector() == standing);
}

TEST_CASE("each restart of APGD begins elsewhere, for each of its targets") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index images = 200;
  // Wrong where the pixels' sum is above 1.06: a part of the faces of the cube around (.5, .5)
  const auto model = moxie::test::linear_model(backend, 2, {-1, 1, -1, 1}, {1.06, -1.06});
  for (const auto loss : {AttackLoss::cross_entropy, AttackLoss::targeted_cross_entropy}) {
    const auto broken = [&](int restarts) {
      AttackData<B> data(backend, images, 2);
      data.x.assign(std::vector<double>(2 * images, 0.5));
      moxie::RunAttack attack{
          moxie::LayerTarget{model},
          Apgd{.threat = {.eps = 0.05}, .loss = loss, .iterations = 0, .restarts = restarts},
          images};
      attack(data.batch(), data.adv(), data.standing.view());
      return moxie::test::check_fallen(backend, data, attack, std::vector<std::int32_t>(images, 1));
    };
    const int one = broken(1), two = broken(2), eight = broken(8);
    CHECK(one > images / 20);
    CHECK(one < images / 2);
    CHECK(two > one + images / 20);
    CHECK(eight > 3 * one / 2 + images / 10);
  }
}

TEST_CASE("the first loss of APGD rises above 0, or only above that of its start") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto model = moxie::test::linear_model(backend, 2, {1, -1, -1, 1}, {3, -3});
  AttackData<B> data(backend, 1, 2);
  data.x.assign({0.5, 0.5});
  // From the worst corner no step leads further: no loss rises above that of the start, 0.0041
  const moxie::test::Buffer<double, B> corner(backend, {0.375, 0.625});
  for (const auto first : {Apgd::FirstComparison::zero, Apgd::FirstComparison::start}) {
    // 50 iterations: the first window has 11 of them
    const Apgd apgd{.threat = {.eps = 0.125}, .iterations = 50, .rho = 0.05, .first = first};
    moxie::RunAttack attack{moxie::LayerTarget{model}, apgd, 1};
    const auto& points = attack.state().points;
    apgd.begin(attack.target(), data.batch(), attack.state(),
               moxie::ConstMatrix<B>(corner.view(1, 2)), data.adv(), data.standing.view());
    const bool zero = first == Apgd::FirstComparison::zero;
    for (int i = 0; i < 10; ++i) {
      apgd.iterate(attack.target(), data.batch(), attack.state(), data.adv(), data.standing.view());
      CHECK(points.rises[0] == (zero ? 1 : 0));
      CHECK(points.step[0] == 0.25);
    }
    apgd.iterate(attack.target(), data.batch(), attack.state(), data.adv(), data.standing.view());
    // 1 of 11 is more than 0.05, 0 is not
    CHECK(points.step[0] == (zero ? 0.25 : 0.125));
    CHECK(data.standing.to_vector()[0] == 1);
  }
}

TEST_CASE("APGD refuses what makes no sense") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto model = moxie::test::linear_model(backend, 2, {1, -1, -1, 1}, {0, 0});
  const auto make = [&](const Apgd& a) {
    return moxie::test::message_of<moxie::config_error>(
        [&] { moxie::RunAttack(moxie::LayerTarget{model}, a, 2); });
  };
  CHECK(make({.loss = AttackLoss::dlr}) ==
        "moxie::Apgd: the model has 2 classes, this loss needs 3");
  CHECK(make({.threat = {.norm = moxie::Norm::l2}}) ==
        "moxie::Apgd: the norm is L2, expected L-infinity");
  CHECK(make({.loss = AttackLoss::margin}) ==
        "moxie::Apgd: the loss is a margin, expected cross-entropy or DLR");
  CHECK(make({.rho = 2}) == "moxie::Apgd: rho is 2, expected one in [0, 1]");
}
