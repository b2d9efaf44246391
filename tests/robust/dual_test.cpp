#include <cmath>

#include "moxie/nn/mlp.hpp"
#include "moxie/robust/dual_model.hpp"
#include "robust/models.hpp"
#include "support/errors.hpp"

namespace {

using moxie::DualSpace;
using moxie::Index;

constexpr DualSpace spaces[] = {DualSpace::logit, DualSpace::probability,
                                DualSpace::log_probability};

}  // namespace

TEST_CASE_TEMPLATE("logits and probabilities can disagree on the class", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = moxie::test::make_backend<B>();
  const moxie::test::Buffer<T, B> zs(backend, {10, 0}), zr(backend, {0, 2});
  moxie::test::Buffer<T, B> y(backend, 2, 0);
  const auto mix = [&](DualSpace space, double alpha) {
    moxie::mix_scores(backend, space, alpha, moxie::ConstMatrix<B>(zs.view(1, 2)),
                      moxie::ConstMatrix<B>(zr.view(1, 2)), y.view(1, 2));
    return y.to_vector();
  };
  moxie::test::check_near(mix(DualSpace::logit, 0.7), {3, 1.4}, 1e-6);
  moxie::test::check_near(mix(DualSpace::probability, 0.7), {.38342843, .61657157}, 1e-6);
  moxie::test::check_near(mix(DualSpace::log_probability, 0.7),
                          {std::log(.38342843), std::log(.61657157)}, 1e-6);
  CHECK(mix(DualSpace::logit, 1) == zr.to_vector());
  CHECK(mix(DualSpace::logit, 0) == zs.to_vector());
  // Far apart, where probabilities are 0, logarithms still are numbers
  const moxie::test::Buffer<T, B> far(backend, {80, -20});
  moxie::mix_scores(backend, DualSpace::log_probability, 1, moxie::ConstMatrix<B>(zs.view(1, 2)),
                    moxie::ConstMatrix<B>(far.view(1, 2)), y.view(1, 2));
  moxie::test::check_near(y.to_vector(), {0, -100}, 1e-5);
}

TEST_CASE("gradients of the mixtures against differences") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index rows = 3, classes = 4;
  const auto dy = moxie::test::normals(rows * classes, 3);
  for (const DualSpace space : spaces)
    for (const double alpha : {0.0, 0.3, 0.7, 1.0}) {
      auto zs = moxie::test::normals(rows * classes, 1);
      auto zr = moxie::test::normals(rows * classes, 2);
      std::vector<double> ds(zs.size()), dr(zs.size()), y(zs.size());
      const auto view = [](auto& v) { return moxie::Matrix<B>(v.data(), rows, classes); };
      const auto loss = [&] {
        moxie::mix_scores(backend, space, alpha, moxie::ConstMatrix<B>(view(zs)),
                          moxie::ConstMatrix<B>(view(zr)), view(y));
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
        return sum;
      };
      moxie::mix_scores_backward(
          backend, space, alpha, moxie::ConstMatrix<B>(view(zs)), moxie::ConstMatrix<B>(view(zr)),
          moxie::ConstMatrix<B>(dy.data(), rows, classes), view(ds), view(dr));
      for (auto* part : {&zs, &zr})
        for (std::size_t i = 0; i < zs.size(); ++i) {
          const double at = (*part)[i];
          (*part)[i] = at + 1e-5;
          const double up = loss();
          (*part)[i] = at - 1e-5;
          const double down = loss();
          (*part)[i] = at;
          const double got = part == &zs ? ds[i] : dr[i];
          CHECK(got == doctest::Approx((up - down) / 2e-5).epsilon(1e-6).scale(1));
        }
    }
}

TEST_CASE("a dual model is a layer: gradients down to the image, one range for each part") {
  using B = moxie::CpuBackend<double>;
  B backend;
  constexpr Index in = 5, hidden = 6, classes = 3, rows = 4;
  for (const DualSpace space : spaces) {
    const auto scope = moxie::root(backend);
    moxie::DualModel model{moxie::Mlp<B>(scope / "Standard", in, hidden, classes),
                           moxie::Mlp<B>(scope / "Robust", in, hidden, classes),
                           {.space = space}};
    scope.parameters->initialize(7);
    static_assert(moxie::Layer<decltype(model)>);
    auto& p = model.parameters();
    auto x = moxie::test::normals(rows * in, 4);
    const auto dy = moxie::test::normals(rows * classes, 5);
    std::vector<double> y(rows * classes), dx(x.size());
    auto tape = moxie::make_tape(model, rows);
    const auto forward = [&] {
      model.forward({x.data(), rows, in}, {y.data(), rows, classes}, tape, {});
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    const auto difference = [&](double& at) {
      const double old = at;
      at = old + 1e-5;
      const double up = forward();
      at = old - 1e-5;
      const double down = forward();
      at = old;
      return (up - down) / 2e-5;
    };
    p.zero_gradients();
    forward();
    model.backward({dy.data(), rows, classes}, {dx.data(), rows, in}, tape);
    for (std::size_t i = 0; i < x.size(); ++i)
      CHECK(dx[i] == doctest::Approx(difference(x[i])).epsilon(1e-6).scale(1));
    const auto values = p.edit();
    for (Index i = 0; i < p.size(); ++i)
      CHECK(p.gradients()[i] == doctest::Approx(difference(values[i])).epsilon(1e-6).scale(1));
    const auto robust = p.range("Robust").shared;
    const auto standard = p.range("Standard").shared;
    CHECK(robust.size == standard.size);
    CHECK(robust.size + standard.size == p.size());
  }
}

TEST_CASE("dual models refuse what does not fit together") {
  using B = moxie::CpuBackend<double>;
  B backend;
  const auto message = [](const auto& f) {
    return moxie::test::message_of<moxie::config_error>(f);
  };
  const auto scope = moxie::root(backend);
  const moxie::Linear<B> a(scope / "A", 4, 3), b(scope / "B", 4, 3), c(scope / "C", 4, 2);
  CHECK(message([&] { moxie::DualModel(a, c); }) ==
        "moxie::DualModel: the standard model maps 4 numbers to 3 classes, the robust one 4 to 2, "
        "expected the same of both");
  CHECK(message([&] { moxie::DualModel(a, b, {.alpha = 1.5}); }) ==
        "moxie::DualModel: alpha is 1.5, expected one in [0, 1]");
  const moxie::Linear<B> other(moxie::root(backend), 4, 3);
  CHECK(message([&] { moxie::DualModel(a, other); }) ==
        "moxie::DualModel: the two models have parameters of their own, expected scopes of one "
        "model");
}
