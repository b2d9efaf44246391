// Kernels of element-wise passes over rows against the generic forms, bit for bit, in packs of 16
// bytes and element by element.
#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "moxie/ops/activate.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/ops/copy_rows.hpp"
#include "moxie/ops/fill_rows.hpp"
#include "moxie/ops/gated_activation.hpp"
#include "moxie/ops/mean_tokens.hpp"
#include "nn_matrix.hpp"

namespace nn_passes_test {

using namespace moxie;
using moxie::test::emulated;
using moxie::test::EmulatedBackend;
using moxie::test::In;
using moxie::test::NnMatrix;
using moxie::test::Out;

namespace {

// A changed signature must not fall back to the generic form in silence.
template <class T, class B = EmulatedBackend<T>>
constexpr bool twins = Accelerates<Activate<Gelu>, B, In<T>, Out<T>>&&
    Accelerates<BiasActivation<Gelu>, B, In<T>, ConstIntVector<B>, Out<T>, Out<T>,
                bool>&& Accelerates<ActivationBackward<Gelu>, B, ConstIntVector<B>, In<T>, Out<T>>&&
        Accelerates<GatedActivation<Silu>, B, In<T>, ConstIntVector<B>, Out<T>, Out<T>>&&
            Accelerates<GatedActivationBackward<Silu>, B, ConstIntVector<B>, In<T>,
                        Out<T>>&& Accelerates<AddRows, B, In<T>, In<T>, Out<T>>&&
                Accelerates<AddVector, B, In<T>, ConstVector<B>, Out<T>>&&
                    Accelerates<CopyRows, B, In<T>, Out<T>>&& Accelerates<FillRows, B, T, Out<T>>&&
                        Accelerates<MeanTokens, B, In<T>, Out<T>>&&
                            Accelerates<MeanTokensBackward, B, In<T>, Out<T>>;
static_assert(twins<float> && twins<double>);

struct Size {
  Index rows, cols, gap;
};
// In packs with and without gaps, a width and a gap that leave none, one lane and all lanes a row,
// widths of which only two fill packs, nothing.
const std::vector<Size> sizes{{1, 4, 0},    {300, 8, 4},  {9, 64, 8}, {5, 7, 1}, {7, 16, 3},
                              {3, 1200, 0}, {2, 2100, 1}, {4, 6, 0},  {4, 7, 0}, {0, 4, 0}};

}  // namespace

TEST_CASE_TEMPLATE(
    "nn kernels: activations with and without bias have the bits of the generic forms", T, float,
    double) {
  for (const Size& size : sizes) {
    const Index rows = size.rows, cols = size.cols, gap = size.gap;
    CAPTURE(rows);
    CAPTURE(cols);
    auto b = emulated<T>(1);
    NnMatrix<T> pre(rows, cols, gap, 1), act(rows, cols, gap, 0), expected(rows, cols, 0, 0);
    Activate<Gelu>::generic(b, pre.read(), expected.view());
    activate<Gelu>(b, pre.read(), act.view());
    CHECK(b.leaf().launches() == (rows > 0 ? 1 : 0));
    CHECK(act.dense() == expected.dense());
    CHECK(act.gaps_kept());

    const NnMatrix<T> before = pre;
    NnMatrix<T> bias(3, cols, gap, 2), pre_expected(rows, cols, 0, 1);
    std::vector<std::int32_t> of_experts{0, 0, 0, 0};  // one row lies past the last
    of_experts[1] = static_cast<std::int32_t>(rows / 3);
    of_experts[2] = of_experts[1];
    of_experts[3] = static_cast<std::int32_t>(rows > 1 ? rows - 1 : rows);
    const VectorView<const std::int32_t> none, offset(of_experts.data(), 4);
    for (const auto& experts : {none, offset}) {
      const In<T> biases = experts ? bias.read() : bias.read().top(1);
      for (const bool keep : {false, true}) {
        BiasActivation<Gelu>::generic(b, biases, experts, pre_expected.view(), expected.view(),
                                      keep);
        bias_activation<Gelu>(b, biases, experts, pre.view(), act.view(), keep);
        CHECK(act.dense() == expected.dense());
        CHECK(pre.dense() == pre_expected.dense());
        CHECK((rows == 0 || keep == (pre.dense() != before.dense())));
        CHECK(pre.gaps_kept());
        CHECK(act.gaps_kept());
      }
      ActivationBackward<Gelu>::generic(b, experts, pre_expected.read(), expected.view());
      activation_backward<Gelu>(b, experts, pre.read(), act.view());
      CHECK(act.dense() == expected.dense());
      CHECK(act.gaps_kept());
      pre = before;
      pre_expected = NnMatrix<T>(rows, cols, 0, 1);
    }
    add_bias(b, bias.read().top(1), none, act.view());
    BiasActivation<Identity>::generic(b, bias.read().top(1), none, expected.view(), expected.view(),
                                      false);
    CHECK(act.dense() == expected.dense());
  }
}

TEST_CASE_TEMPLATE("nn kernels: gated activations have the bits of the generic forms", T, float,
                   double) {
  for (const Size& size : sizes) {
    const Index rows = size.rows, cols = size.cols, gap = size.gap;
    CAPTURE(rows);
    CAPTURE(cols);
    auto b = emulated<T>(4);
    // cols is the width of a half, so the second may begin inside a pack
    NnMatrix<T> bias(3, 2 * cols, gap, 2), pre(rows, 2 * cols, gap, 1), act(rows, cols, gap, 0),
        d(rows, 2 * cols, gap, 3), pre_expected = pre, act_expected = act, d_expected = d;
    std::vector<std::int32_t> of_experts{0, 0, 0, 0};  // a row lies before them, one past them
    of_experts[0] = rows > 2 ? 1 : 0;
    of_experts[1] = of_experts[2] = static_cast<std::int32_t>(rows > 2 ? 1 + rows / 3 : 0);
    of_experts[3] = static_cast<std::int32_t>(rows > 2 ? rows - 1 : rows);
    const VectorView<const std::int32_t> offset(of_experts.data(), 4);
    for (const In<T>& biases : {bias.read(), In<T>()}) {
      gated_activation<Silu>(b, biases, offset, pre.view(), act.view());
      GatedActivation<Silu>::generic(b, biases, offset, pre_expected.view(), act_expected.view());
      CHECK(pre.dense() == pre_expected.dense());
      CHECK(act.dense() == act_expected.dense());
    }
    gated_activation_backward<Silu>(b, offset, pre.read(), d.view());
    GatedActivationBackward<Silu>::generic(b, offset, pre_expected.read(), d_expected.view());
    CHECK(d.dense() == d_expected.dense());
    CHECK((pre.gaps_kept() && act.gaps_kept() && d.gaps_kept()));
    CHECK(b.leaf().launches() == (rows > 0 ? 3 : 0));
  }
}

TEST_CASE_TEMPLATE("nn kernels: sums, copies and fills of rows have the bits of the generic forms",
                   T, float, double) {
  for (const Size& size : sizes) {
    const Index rows = size.rows, cols = size.cols, gap = size.gap;
    CAPTURE(rows);
    CAPTURE(cols);
    auto b = emulated<T>(2);
    NnMatrix<T> left(rows, cols, gap, 1), right(rows, cols, 0, 2), row(1, cols, 0, 3),
        out(rows, cols, gap, 0), expected(rows, cols, 0, 0);
    const auto check = [&] {
      CHECK(out.dense() == expected.dense());
      CHECK(out.gaps_kept());
    };
    add_rows(b, left.read(), right.read(), out.view());
    AddRows::generic(b, left.read(), right.read(), expected.view());
    check();
    add_vector(b, right.read(), row.read_row(), out.view());
    AddVector::generic(b, right.read(), row.read_row(), expected.view());
    check();
    add_rows(b, out.read(), left.read(), out.view());
    AddRows::generic(b, expected.read(), left.read(), expected.view());
    check();
    copy_rows(b, left.read(), out.view());
    CopyRows::generic(b, left.read(), expected.view());
    check();
    copy_rows(b, row.read(), out.view());
    CopyRows::generic(b, row.read(), expected.view());
    check();
    fill_rows(b, T(4), out.view());
    FillRows::generic(b, T(4), expected.view());
    check();
    CHECK(b.leaf().launches() == (rows > 0 ? 6 : 0));
  }
}

TEST_CASE_TEMPLATE(
    "nn kernels: means over tokens and their adjoint have the bits of the generic forms", T, float,
    double) {
  struct Case {
    Index images, tokens, width, gap;
  };
  for (const Case& at : {Case{3, 5, 8, 4}, Case{2, 7, 19, 0}, Case{1, 1, 1, 1}, Case{2, 3, 4, 1}}) {
    const Index images = at.images, tokens = at.tokens, width = at.width, gap = at.gap;
    CAPTURE(width);
    auto b = emulated<T>(3);
    NnMatrix<T> x(images, tokens * width, gap, 1), y(images, width, gap, 0),
        y_expected(images, width, 0, 0), dx(images, tokens * width, gap, 0),
        dx_expected(images, tokens * width, 0, 0);
    mean_tokens(b, x.read(), y.view());
    MeanTokens::generic(b, x.read(), y_expected.view());
    CHECK(y.dense() == y_expected.dense());
    CHECK(y.gaps_kept());
    mean_tokens_backward(b, y.read(), dx.view());
    MeanTokensBackward::generic(b, y.read(), dx_expected.view());
    CHECK(dx.dense() == dx_expected.dense());
    CHECK(dx.gaps_kept());
    CHECK(b.leaf().launches() == 2);
  }
}

}  // namespace nn_passes_test
