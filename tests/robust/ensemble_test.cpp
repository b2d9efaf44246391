#include <algorithm>
#include <cmath>
#include <limits>

#include "device/allocations.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/robust/auto_attack.hpp"
#include "robust/models.hpp"
#include "support/errors.hpp"

namespace {

using moxie::AutoAttack;
using moxie::FabTargeted;
using moxie::Index;
using moxie::Square;
using moxie::test::AttackData;

/// Class 0 leads, but in bright images, of which it makes no numbers.
class NoNumbersWhereBright {
 public:
  using BackendType = moxie::CpuBackend<double>;
  using B = BackendType;

  explicit NoNumbersWhereBright(B& backend) : backend_(&backend) {}
  B& backend() const { return *backend_; }
  Index input_width() const { return 2; }
  Index classes() const { return 2; }
  void bind(moxie::Arena<B>&, Index) {}
  void scores(moxie::ConstMatrix<B> x, moxie::ConstIntVector<B>, moxie::Matrix<B> scores) {
    for (Index i = 0; i < x.rows; ++i) {
      scores(i, 0) = x(i, 0) > 0.5 ? std::numeric_limits<double>::quiet_NaN() : 1;
      scores(i, 1) = 0;
    }
  }
  void gradient(moxie::ConstMatrix<B>, moxie::Matrix<B>) {}

 private:
  B* backend_;
};

}  // namespace

TEST_CASE_TEMPLATE("the way to a plane by hand and against the sorted sum", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  const auto way = [&](const std::vector<T>& t, const std::vector<T>& w, T plane) {
    const auto n = static_cast<Index>(t.size());
    const moxie::test::Buffer<T, B> ts(backend, t), ws(backend, w), bs(backend, {plane});
    moxie::test::Buffer<T, B> d(backend, n, 0);
    moxie::way_to_planes(backend, moxie::ConstMatrix<B>(ts.view(1, n)),
                         moxie::ConstMatrix<B>(ws.view(1, n)), moxie::ConstVector<B>(bs.view()),
                         d.view(1, n));
    return d.to_vector();
  };
  moxie::test::check_near(way({T(.5), T(.5), T(.1)}, {1, -1, 2}, T(-.9)), {-.45, .45, -.1}, 1e-6);
  moxie::test::check_near(way({T(.5), T(.5), T(.1)}, {1, -1, 0}, T(-9)), {-.5, .5, 0}, 1e-6);
  moxie::test::check_near(way({T(.5), T(.5)}, {1, 1}, 1), {0, 0}, 1e-6);
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    constexpr std::size_t n = 41;
    const auto draw = moxie::test::normals(2 * n + 1, seed);
    std::vector<T> t, w;
    for (std::size_t i = 0; i < n; ++i) {
      t.push_back(static_cast<T>(std::min(1.0, std::abs(draw[i]) / 2)));
      w.push_back(i % 7 == 0 ? T(0) : static_cast<T>(draw[n + i]));
    }
    const auto plane = static_cast<T>(4 * draw[2 * n]);
    double c = -static_cast<double>(plane);
    for (std::size_t i = 0; i < n; ++i) c += static_cast<double>(t[i]) * static_cast<double>(w[i]);
    const double sign = c < 0 ? -1 : 1;
    std::vector<std::pair<double, double>> rooms;  // room, |w|
    for (std::size_t i = 0; i < n; ++i) {
      const double up = sign * static_cast<double>(w[i]);
      const auto at = static_cast<double>(t[i]);
      rooms.emplace_back(up > 0 ? at : up < 0 ? 1 - at : 0, std::abs(up));
    }
    auto sorted = rooms;
    std::sort(sorted.begin(), sorted.end());
    double slope = 0, length = 0, gained = 0;
    for (const auto& [room, size] : sorted) slope += size;
    for (const auto& [room, size] : sorted) {
      const double gain = slope * (room - length);
      if (gained + gain >= std::abs(c)) {
        length += (std::abs(c) - gained) / slope;
        gained = std::abs(c);
        break;
      }
      gained += gain;
      length = room;
      slope -= size;
    }
    std::vector<double> wanted;
    for (std::size_t i = 0; i < n; ++i) {
      const double up = sign * static_cast<double>(w[i]);
      wanted.push_back(up == 0 ? 0 : std::copysign(std::min(length, rooms[i].first), -up));
    }
    moxie::test::check_near(way(t, w, plane), wanted, sizeof(T) == 4 ? 1e-5 : 1e-12);
  }
}

TEST_CASE_TEMPLATE("FAB's distance to a hyperplane is exact", B, MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  constexpr Index images = 6, width = 15;
  const auto kernel = moxie::test::normals(2 * width, 8);
  const auto model = moxie::test::linear_model(backend, width, kernel, {0, 0});
  AttackData<B> data(backend, images, width);
  data.label_by(backend, model);
  moxie::RunAttack attack{
      moxie::LayerTarget{model},
      FabTargeted{.threat = {.eps = 1}, .iterations = 60, .overshoot = 1.001, .keep_broken = true},
      images};
  attack(data.batch(), data.adv(), data.standing.view());
  const auto x = data.x.to_vector(), adv = data.x_adv.to_vector();
  const auto standing = data.standing.to_vector(), y = data.y.to_vector();
  for (Index i = 0; i < images; ++i) {
    const auto at = static_cast<std::size_t>(i);
    REQUIRE(standing[at] == 0);
    // The exact distance: walk from x by the same length in every pixel until the gap closes
    double low = 0, high = 1;
    const auto gap = [&](double length) {
      double g = 0;
      for (Index j = 0; j < width; ++j) {
        const auto k = static_cast<std::size_t>(j);
        const double w = (kernel[2 * k + 1] - kernel[2 * k]) * (y[at] == 0 ? 1 : -1);
        const double to = static_cast<double>(x[at * width + k]) + std::copysign(length, w);
        g += w * std::clamp(to, 0.0, 1.0);
      }
      return g;
    };
    for (int halving = 0; halving < 60; ++halving)
      (gap((low + high) / 2) < 0 ? low : high) = (low + high) / 2;
    double found = 0;
    for (std::size_t j = at * width; j < (at + 1) * width; ++j)
      found = std::max(found, std::abs(static_cast<double>(adv[j]) - static_cast<double>(x[j])));
    // Over the plane by a share of the last, short way to it, and no nearer
    CHECK(found >= high * (1 - 1e-5));
    CHECK(found <= high * 1.0002 + 1e-6);
  }
}

TEST_CASE("Square's windows by hand") {
  const Square square{};
  const std::pair<Index, Index> sides[] = {{0, 29},  {11, 20},  {51, 14},  {201, 10},
                                           {501, 7}, {1001, 5}, {2001, 4}, {4001, 3}};
  for (const auto& [it, side] : sides) CHECK(square.side(it) == side);
  CHECK(Square{.height = 2, .width = 9}.side(0) == 2);
  CHECK(Square{}.side(100000) == 1);
}

TEST_CASE_TEMPLATE("FAB and Square break points inside ball and box and leave others alone", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = moxie::test::make_backend<B>();
  constexpr Index images = 40, width = 12;
  const auto model = moxie::test::curved_model(backend, width, 16, 5);
  const double eps = 0.06;
  const auto check = [&](const auto& policy) {
    AttackData<B> data(backend, images, width);
    data.label_by(backend, model);
    moxie::RunAttack attack{moxie::LayerTarget{model}, policy, images};
    attack(data.batch(), data.adv(), data.standing.view());
    const int broken =
        moxie::test::check_fallen(backend, data, attack, std::vector<std::int32_t>(images, 1));
    CHECK(broken > 4);
    CHECK(broken < images - 3);
  };
  check(FabTargeted{.threat = {.eps = eps}, .iterations = 30});
  check(Square{.threat = {.eps = eps}, .height = 2, .width = 3, .channels = 2, .queries = 300});
}

TEST_CASE("Square records the image whose scores are no numbers, not the one before") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index images = 16;
  AttackData<B> data(backend, images, 2);
  data.x.assign(std::vector<double>(2 * images, 0.5));
  moxie::RunAttack attack{
      NoNumbersWhereBright(backend),
      Square{.threat = {.eps = 0.1}, .height = 1, .width = 2, .channels = 1, .queries = 20},
      images};
  Square start = attack.attack();
  start.queries = 0;
  moxie::RunAttack first{NoNumbersWhereBright(backend), start, images};
  first(data.batch(), data.adv(), data.standing.view());
  Index bright = 0;
  for (const auto s : data.standing.to_vector()) bright += s == 0 ? 1 : 0;
  CHECK(bright > 0);
  CHECK(bright < images);  // windows break the others
  AttackData<B> all(backend, images, 2);
  all.x.assign(std::vector<double>(2 * images, 0.5));
  attack(all.batch(), all.adv(), all.standing.view());
  CHECK(moxie::test::check_fallen(backend, all, attack, std::vector<std::int32_t>(images, 1)) ==
        images);
}

TEST_CASE("the ensemble runs in its order on the points still standing") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index images = 40, width = 12;
  for (const Index classes : {Index{2}, Index{3}, Index{5}}) {
    const auto model = moxie::test::curved_model(backend, width, 16, classes);
    AttackData<B> data(backend, images, width);
    data.label_by(backend, model);
    const AutoAttack ensemble{.threat = {.eps = 0.04},
                              .height = 2,
                              .width = 3,
                              .channels = 2,
                              .iterations = 20,
                              .queries = 60};
    moxie::RunAttack attack{moxie::LayerTarget{model}, ensemble, images};
    const int before = moxie::test::allocations();
    attack(data.batch(), data.adv(), data.standing.view());
    CHECK(moxie::test::allocations() == before);
    const auto& stages = attack.state().stages;
    CHECK(stages[0].name == "apgd-ce");
    CHECK(stages[1].name == (classes == 2 ? "apgd-ce" : classes == 3 ? "apgd-dlr" : "apgd-t"));
    CHECK(stages[2].name == "fab-t");
    CHECK(stages[3].name == "square");
    Index left = images;
    for (const auto& stage : stages) {
      CHECK(stage.standing <= left);
      left = stage.standing;
    }
    Index standing = 0;
    for (const auto s : data.standing.to_vector()) standing += s;
    CHECK(standing == left);
    CHECK(left < images);
    CHECK(left > 0);
    // The first alone finds as many
    AttackData<B> alone(backend, images, width);
    alone.label_by(backend, model);
    moxie::RunAttack first{moxie::LayerTarget{model}, ensemble.first(), images};
    first(alone.batch(), alone.adv(), alone.standing.view());
    standing = 0;
    for (const auto s : alone.standing.to_vector()) standing += s;
    CHECK(standing == stages[0].standing);
  }
}

TEST_CASE("the ensemble gives the same bits for any threads and any split of the set") {
  using B = moxie::CpuBackend<float>;
  constexpr Index images = 17, width = 12;
  std::vector<float> wanted;
  for (const int threads : {1, 2, 3}) {
    moxie::ThreadPool pool(threads);
    B backend(pool);
    const auto model = moxie::test::curved_model(backend, width, 16, 5);
    for (const Index size : {images, Index{6}}) {
      AttackData<B> data(backend, images, width);
      data.label_by(backend, model);
      moxie::RunAttack attack{moxie::LayerTarget{model},
                              AutoAttack{.threat = {.eps = 0.03},
                                         .height = 2,
                                         .width = 3,
                                         .channels = 2,
                                         .iterations = 8,
                                         .queries = 30},
                              images};
      moxie::test::attack_in_batches(data, size, attack);
      if (wanted.empty()) wanted = data.x_adv.to_vector();
      CHECK(data.x_adv.to_vector() == wanted);
    }
  }
}

TEST_CASE("FAB and Square refuse what makes no sense") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto model = moxie::test::linear_model(backend, 2, {1, -1, -1, 1}, {0, 0});
  const auto make = [&](const auto& a) {
    return moxie::test::message_of<moxie::config_error>(
        [&] { moxie::RunAttack(moxie::LayerTarget{model}, a, 2); });
  };
  CHECK(make(Square{}) ==
        "moxie::Square: images are [32 x 32 x 3], the model's input has 2 numbers");
  CHECK(make(Square{.height = 1, .width = 2, .channels = 1, .p_init = 0}) ==
        "moxie::Square: p_init is 0, expected one in (0, 1]");
  CHECK(make(FabTargeted{.overshoot = 0.5}) ==
        "moxie::FabTargeted: overshoot is 0.5, expected a finite number >= 1");
  CHECK(make(FabTargeted{.back = 2}) == "moxie::FabTargeted: back is 2, expected one in [0, 1]");
}
