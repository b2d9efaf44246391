// Kernels of rows (layer norm, softmax, losses) against the generic forms: bit for bit in the same
// scalar, since they sum in the same order, and float against double.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "moxie/ops/accelerate.hpp"
#include "moxie/testing/law_report.hpp"
#include "nn_matrix.hpp"

namespace nn_rows_test {

using namespace moxie;
using moxie::test::emulated;
using moxie::test::EmulatedBackend;
using moxie::test::In;
using moxie::test::NnMatrix;
using moxie::test::Out;

namespace {

// A changed signature must not fall back to the generic form in silence.
template <class T, class B = EmulatedBackend<T>>
constexpr bool twins =
    Accelerates<LayerNormRows, B, In<T>, ConstVector<B>, ConstVector<B>, double, Out<T>,
                Out<T>>&& Accelerates<LayerNormRowsBackward, B, In<T>, In<T>, ConstVector<B>, In<T>,
                                      In<T>, Out<T>>&& Accelerates<SoftmaxRows, B, In<T>, Out<T>>&&
        Accelerates<SoftmaxRowsBackward, B, In<T>, In<T>, Out<T>, bool>&&
            Accelerates<SoftmaxCrossEntropy, B, In<T>, In<T>, Vector<B>, Out<T>, double>&&
                Accelerates<SigmoidCrossEntropy, B, In<T>, In<T>, Vector<B>, Out<T>, double>&&
                    Accelerates<KlDivergence, B, In<T>, In<T>, Vector<B>, Out<T>, Out<T>, double>;
static_assert(twins<float> && twins<double>);

struct Size {
  Index rows, cols;
};
// One column, less and more than a strip of lanes, each count of registers a lane may hold, and
// more.
const std::vector<Size> sizes{{1, 1},   {3, 7},   {17, 16},  {33, 50}, {16, 128},
                              {2, 129}, {5, 384}, {18, 385}, {0, 4}};

}  // namespace

TEST_CASE_TEMPLATE("nn kernels: layer norm has the bits of the generic form, in place too", T,
                   float, double) {
  for (const Size& size : sizes) {
    const Index rows = size.rows, cols = size.cols;
    CAPTURE(cols);
    for (const std::uint64_t seed : {0U, 1U}) {
      auto b = emulated<T>(seed);
      NnMatrix<T> x(rows, cols, 3, 1), y(rows, cols, 2, 0), expected(rows, cols, 0, 0);
      NnMatrix<T> scale(1, cols, 0, 2), bias(1, cols, 0, 3), stats(rows, 2, 1, 0),
          stats_expected(rows, 2, 0, 0);
      LayerNormRows::generic(b, x.read(), scale.read_row(), bias.read_row(), 1e-6, expected.view(),
                             stats_expected.view());
      CHECK(b.leaf().launches() == 0);
      layer_norm_rows(b, x.read(), scale.read_row(), bias.read_row(), 1e-6, y.view(), stats.view());
      CHECK(b.leaf().launches() == (rows > 0 ? 1 : 0));
      CHECK(y.dense() == expected.dense());
      CHECK(stats.dense() == stats_expected.dense());
      CHECK(y.gaps_kept());
      CHECK(stats.gaps_kept());
      layer_norm_rows(b, x.read(), scale.read_row(), bias.read_row(), 1e-6, x.view(),
                      MatrixView<T>());
      CHECK(x.dense() == expected.dense());
    }
  }
}

TEST_CASE_TEMPLATE("nn kernels: the backward of layer norm has the bits of the generic form", T,
                   float, double) {
  for (const Size& size : sizes) {
    const Index rows = size.rows, cols = size.cols;
    CAPTURE(cols);
    auto b = emulated<T>(3);
    NnMatrix<T> x(rows, cols, 3, 1), y(rows, cols, 0, 0), scale(1, cols, 0, 2),
        stats(rows, 2, 0, 0);
    NnMatrix<T> dy(rows, cols, 1, 4), beside(rows, cols, 2, 5), dx(rows, cols, 4, 0),
        expected(rows, cols, 0, 0);
    layer_norm_rows(b, x.read(), scale.read_row(), scale.read_row(), 1e-6, y.view(), stats.view());
    LayerNormRowsBackward::generic(b, x.read(), stats.read(), scale.read_row(), dy.read(),
                                   MatrixView<const T>(), expected.view());
    layer_norm_rows_backward(b, x.read(), stats.read(), scale.read_row(), dy.read(),
                             MatrixView<const T>(), dx.view());
    CHECK(dx.dense() == expected.dense());
    CHECK(dx.gaps_kept());
    LayerNormRowsBackward::generic(b, x.read(), stats.read(), scale.read_row(), dy.read(),
                                   beside.read(), expected.view());
    layer_norm_rows_backward(b, x.read(), stats.read(), scale.read_row(), dy.read(), beside.read(),
                             dy.view());
    CHECK(dy.dense() == expected.dense());
  }
}

TEST_CASE_TEMPLATE("nn kernels: softmax and its backward have the bits of the generic form", T,
                   float, double) {
  for (const Size& size : sizes) {
    const Index rows = size.rows, cols = size.cols;
    CAPTURE(cols);
    auto b = emulated<T>(5);
    NnMatrix<T> x(rows, cols, 3, 1), p(rows, cols, 2, 0), expected(rows, cols, 0, 0);
    SoftmaxRows::generic(b, x.read(), expected.view());
    softmax_rows(b, x.read(), p.view());
    CHECK(p.dense() == expected.dense());
    CHECK(p.gaps_kept());
    softmax_rows(b, x.read(), x.view());
    CHECK(x.dense() == expected.dense());

    NnMatrix<T> dp(rows, cols, 1, 2), dx(rows, cols, 5, 3), d_expected(rows, cols, 0, 3);
    for (const bool accumulate : {true, false}) {
      SoftmaxRowsBackward::generic(b, p.read(), dp.read(), d_expected.view(), accumulate);
      softmax_rows_backward(b, p.read(), dp.read(), dx.view(), accumulate);
      CHECK(dx.dense() == d_expected.dense());
    }
    CHECK(dx.gaps_kept());
    softmax_rows_backward(b, p.read(), dp.read(), dp.view(), false);
    CHECK(dp.dense() == d_expected.dense());
  }
}

TEST_CASE_TEMPLATE("nn kernels: softmax of extreme rows", T, float, double) {
  auto b = emulated<T>();
  NnMatrix<T> x(4, 20, 0, 1), p(4, 20, 0, 0);
  for (Index c = 0; c < 20; ++c) {
    x(0, c) = T(1e30) * x(0, c);  // one weight is 1
    x(1, c) = T(-3e38);           // all alike
  }
  x(2, 19) = std::numeric_limits<T>::quiet_NaN();
  softmax_rows(b, x.read(), p.view());
  T sums[4] = {};
  for (Index r = 0; r < 4; ++r)
    for (Index c = 0; c < 20; ++c) sums[r] += p(r, c);
  CHECK(sums[0] == doctest::Approx(1));
  CHECK(p(1, 0) == T(1) / T(20));
  for (Index c = 0; c < 20; ++c) CHECK(p(2, c) != p(2, c));
  CHECK(sums[3] == doctest::Approx(1));
}

TEST_CASE_TEMPLATE("nn kernels: losses have the bits of the generic forms", T, float, double) {
  for (const Size& size : sizes) {
    const Index rows = size.rows, cols = size.cols;
    if (cols > 200) continue;
    CAPTURE(cols);
    auto b = emulated<T>(7);
    NnMatrix<T> z(rows, cols, 3, 1), y(rows, cols, 1, 2);
    NnMatrix<T> loss(1, rows, 0, 0), loss_expected(1, rows, 0, 0);
    NnMatrix<T> d(rows, cols, 2, 0), e(rows, cols, 1, 0), d_expected(rows, cols, 0, 0),
        e_expected(rows, cols, 0, 0);
    const VectorView<T> none;
    const auto check = [&] {
      CHECK(loss.dense() == loss_expected.dense());
      CHECK(d.dense() == d_expected.dense());
      CHECK(d.gaps_kept());
    };
    SoftmaxCrossEntropy::generic(b, z.read(), y.read(), loss_expected.row(), d_expected.view(), 3);
    softmax_cross_entropy(b, z.read(), y.read(), loss.row(), d.view(), 3);
    check();
    softmax_cross_entropy(b, z.read(), y.read(), none, d.view(), 3);
    softmax_cross_entropy(b, z.read(), y.read(), loss.row(), MatrixView<T>(), 3);
    check();
    SigmoidCrossEntropy::generic(b, z.read(), y.read(), loss_expected.row(), d_expected.view(), 3);
    sigmoid_cross_entropy(b, z.read(), y.read(), loss.row(), d.view(), 3);
    check();
    sigmoid_cross_entropy(b, z.read(), y.read(), none, MatrixView<T>(), 3);
    KlDivergence::generic(b, z.read(), y.read(), loss_expected.row(), d_expected.view(),
                          e_expected.view(), 3);
    kl_divergence(b, z.read(), y.read(), loss.row(), d.view(), e.view(), 3);
    check();
    CHECK(e.dense() == e_expected.dense());
    kl_divergence(b, z.read(), y.read(), none, MatrixView<T>(), MatrixView<T>(), 3);
    check();
  }
}

TEST_CASE("nn kernels: rows in float are near those of the generic forms in double") {
  auto narrow = emulated<float>();
  auto wide = emulated<double>();
  const Index rows = 19, cols = 200;
  NnMatrix<float> x(rows, cols, 1, 1), y(rows, cols, 0, 0), dy(rows, cols, 0, 2),
      scale(1, cols, 0, 3), stats(rows, 2, 0, 0), loss(1, rows, 0, 0);
  NnMatrix<double> x_wide(rows, cols, 0, 1), y_wide(rows, cols, 0, 0), dy_wide(rows, cols, 0, 2),
      scale_wide(1, cols, 0, 3), stats_wide(rows, 2, 0, 0), loss_wide(1, rows, 0, 0);
  layer_norm_rows(narrow, x.read(), scale.read_row(), scale.read_row(), 1e-6, y.view(),
                  stats.view());
  LayerNormRows::generic(wide, x_wide.read(), scale_wide.read_row(), scale_wide.read_row(), 1e-6,
                         y_wide.view(), stats_wide.view());
  test::check_near(y.dense(), y_wide.dense());
  layer_norm_rows_backward(narrow, x.read(), stats.read(), scale.read_row(), dy.read(),
                           MatrixView<const float>(), y.view());
  LayerNormRowsBackward::generic(wide, x_wide.read(), stats_wide.read(), scale_wide.read_row(),
                                 dy_wide.read(), MatrixView<const double>(), y_wide.view());
  test::check_near(y.dense(), y_wide.dense());
  softmax_cross_entropy(narrow, x.read(), dy.read(), loss.row(), y.view());
  SoftmaxCrossEntropy::generic(wide, x_wide.read(), dy_wide.read(), loss_wide.row(), y_wide.view(),
                               1);
  test::check_near(y.dense(), y_wide.dense());
  test::check_near(loss.dense(), loss_wide.dense());
  softmax_rows(narrow, x.read(), y.view());
  SoftmaxRows::generic(wide, x_wide.read(), y_wide.view());
  test::check_near(y.dense(), y_wide.dense());
}

}  // namespace nn_rows_test
