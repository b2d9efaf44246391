// Kernels of optimizers, norms and sums over rows against the generic forms, bit for bit: each
// element has one formula, and each sum one order.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "moxie/core/memory.hpp"
#include "moxie/ops/adam_w.hpp"
#include "moxie/ops/clip_to_norm.hpp"
#include "moxie/ops/norm.hpp"
#include "moxie/ops/sgd.hpp"
#include "nn_matrix.hpp"

namespace nn_flat_test {

using namespace moxie;
using moxie::test::emulated;
using moxie::test::EmulatedBackend;
using moxie::test::NnMatrix;

namespace {

// A changed signature must not fall back to the generic form in silence.
template <class T, class B = EmulatedBackend<T>>
constexpr bool twins =
    Accelerates<AdamWUpdate, B, Vector<B>, ConstVector<B>, Vector<B>, Vector<B>, AdamWFactors<T>>&&
        Accelerates<SgdUpdate, B, Vector<B>, ConstVector<B>, Vector<B>, SgdFactors<T>>&&
            Accelerates<ClipToNorm, B, Vector<B>, VectorView<const double>, double>&&
                Accelerates<SquaredNorm, B, ConstVector<B>, VectorView<double>, bool, Scratch<B>>;
static_assert(twins<float> && twins<double>);

/// A vector inside a larger one, `first` elements from an address that is aligned to 256.
template <class T>
class Piece {
 public:
  Piece(Index first, Index size, std::uint64_t seed)
      : first_(first),
        size_(size),
        memory_(host_, static_cast<std::size_t>(first + size + 1) * sizeof(T)) {
    const std::vector<double> values = test::normals(size, seed);
    all()[first + size] = mark;
    for (Index i = 0; i < first; ++i) all()[i] = mark;
    for (Index i = 0; i < size; ++i)
      view()[i] = static_cast<T>(values[static_cast<std::size_t>(i)]);
  }
  VectorView<T> view() { return {all() + first_, size_}; }
  VectorView<const T> read() { return view(); }
  std::vector<T> values() { return {view().data, view().data + size_}; }
  bool rest_kept() {
    for (Index i = 0; i < first_; ++i)
      if (all()[i] != mark) return false;
    return all()[first_ + size_] == mark;
  }

 private:
  static constexpr T mark = 77;
  T* all() { return reinterpret_cast<T*>(memory_.data()); }

  EmulatedBackend<T> host_;
  Index first_, size_;
  Memory<EmulatedBackend<T>> memory_;
};

struct Place {
  Index first;  // of all vectors
  Index other;  // of one that may be aligned differently
  Index size;
};
// Aligned, a lead before the first pack, no common alignment, less than a pack, nothing, and more
// packs than threads: 3 multiprocessors with 8 blocks of 256 threads.
const std::vector<Place> places{{0, 0, 64}, {1, 1, 71}, {3, 3, 1000}, {0, 1, 50},
                                {2, 2, 1},  {0, 0, 0},  {5, 5, 30000}};

template <class T>
constexpr AdamWFactors<T> adam_factors{.learning_rate = T(0.1),
                                       .decay = T(0.01),
                                       .beta1 = T(0.9),
                                       .beta2 = T(0.99),
                                       .rest1 = T(0.1),
                                       .rest2 = T(0.01),
                                       .correction1 = T(2),
                                       .correction2 = T(3),
                                       .epsilon = T(1e-8)};

}  // namespace

TEST_CASE_TEMPLATE("nn kernels: AdamW has the bits of the generic form wherever the vectors lie", T,
                   float, double) {
  for (const Place& at : places) {
    CAPTURE(at.first);
    CAPTURE(at.size);
    auto b = emulated<T>(1);
    Piece<T> p(at.first, at.size, 1), g(at.other, at.size, 2), m(at.first, at.size, 3),
        v(at.first, at.size, 4);
    Piece<T> p_expected(0, at.size, 1), m_expected(0, at.size, 3), v_expected(0, at.size, 4);
    for (Index i = 0; i < at.size; ++i) v.view()[i] = v_expected.view()[i] = std::fabs(v.view()[i]);
    AdamWUpdate::generic(b, p_expected.view(), g.read(), m_expected.view(), v_expected.view(),
                         adam_factors<T>);
    adam_w_update(b, p.view(), g.read(), m.view(), v.view(), adam_factors<T>);
    CHECK(b.leaf().launches() == (at.size > 0 ? 1 : 0));
    CHECK(p.values() == p_expected.values());
    CHECK(m.values() == m_expected.values());
    CHECK(v.values() == v_expected.values());
    CHECK(p.rest_kept());
    CHECK(m.rest_kept());
    CHECK(v.rest_kept());
  }
}

TEST_CASE_TEMPLATE("nn kernels: SGD has the bits of the generic form wherever the vectors lie", T,
                   float, double) {
  const SgdFactors<T> factors{.learning_rate = T(0.1), .decay = T(0.01), .momentum = T(0.9)};
  for (const Place& at : places) {
    CAPTURE(at.first);
    CAPTURE(at.size);
    auto b = emulated<T>(2);
    Piece<T> p(at.other, at.size, 1), g(at.first, at.size, 2), t(at.first, at.size, 3);
    Piece<T> p_expected(0, at.size, 1), t_expected(0, at.size, 3);
    SgdUpdate::generic(b, p_expected.view(), g.read(), t_expected.view(), factors);
    sgd_update(b, p.view(), g.read(), t.view(), factors);
    CHECK(p.values() == p_expected.values());
    CHECK(t.values() == t_expected.values());
    CHECK(p.rest_kept());
    CHECK(t.rest_kept());
  }
}

TEST_CASE_TEMPLATE("nn kernels: the squared norm has the bits of the generic form, and clips", T,
                   float, double) {
  for (const Index size : {0, 1, 5, 1023, 1024, 1025, 40000}) {
    CAPTURE(size);
    auto b = emulated<T>(3);
    Piece<T> x(3, size, 1);
    Piece<double> scratch(0, static_cast<Index>(squared_norm_bytes(size) / sizeof(double)), 0);
    const auto bytes = static_cast<Index>(squared_norm_bytes(size));
    const VectorView<std::byte> space(reinterpret_cast<std::byte*>(scratch.view().data), bytes);
    Piece<double> norm(0, 1, 2), expected(0, 1, 2);
    for (const bool accumulate : {true, false}) {
      SquaredNorm::generic(b, x.read(), expected.view(), accumulate, space);
      squared_norm(b, x.read(), norm.view(), accumulate, space);
      CHECK(norm.values() == expected.values());
    }
    CHECK(scratch.rest_kept());
    const double length = std::sqrt(norm.view()[0]);
    for (const double limit : {length / 3, 2 * length + 1}) {
      Piece<T> clipped(3, size, 1), clipped_expected(0, size, 1);
      ClipToNorm::generic(b, clipped_expected.view(), expected.read(), limit);
      clip_to_norm(b, clipped.view(), norm.read(), limit);
      CHECK(clipped.values() == clipped_expected.values());
      CHECK(clipped.rest_kept());
    }
    norm.view()[0] = std::numeric_limits<double>::quiet_NaN();
    const std::vector<T> before = x.values();
    clip_to_norm(b, x.view(), norm.read(), 1e-3);
    CHECK(x.values() == before);
  }
}

TEST_CASE("nn kernels: the squared norm of more than a chunk of chunks") {
  auto b = emulated<float>(4);
  const Index size = 1024 * 1025 + 3;  // three levels
  const std::vector<float> ones(static_cast<std::size_t>(size), 1.0F);
  std::vector<double> scratch(squared_norm_bytes(size) / sizeof(double));
  double norm = 0;
  squared_norm(b, VectorView<const float>(ones.data(), size), VectorView<double>(&norm, 1), false,
               VectorView<std::byte>(reinterpret_cast<std::byte*>(scratch.data()),
                                     static_cast<Index>(squared_norm_bytes(size))));
  CHECK(norm == static_cast<double>(size));
  CHECK(b.leaf().launches() == 3);
}

namespace {
template <class T>
struct Element {
  MatrixView<const T> x;
  T operator()(Index r, Index c) const { return x(r, c); }
};
}  // namespace

TEST_CASE_TEMPLATE("nn kernels: column sums have the bits of sums by chunks of 256 rows", T, float,
                   double) {
  struct Size {
    Index rows, cols;
  };
  for (const Size& size : {Size{1, 1}, Size{3, 5}, Size{256, 8}, Size{257, 33}, Size{700, 70},
                           Size{600, 3}, Size{66000, 1}, Size{0, 4}, Size{4, 0}}) {
    const Index rows = size.rows, cols = size.cols;
    CAPTURE(rows);
    CAPTURE(cols);
    NnMatrix<T> x(rows, cols, 2, 1);
    std::vector<T> expected(static_cast<std::size_t>(cols), T(3));
    for (Index c = 0; c < cols; ++c) {
      T sum = 0;
      for (Index first = 0; first < rows; first += sum_chunk) {
        T part = 0;
        for (Index r = first; r < rows && r < first + sum_chunk; ++r) part += x(r, c);
        sum += part;
      }
      expected[static_cast<std::size_t>(c)] += sum;
    }
    for (const std::uint64_t seed : {0U, 1U}) {
      auto b = emulated<T>(seed);
      std::vector<T> out(static_cast<std::size_t>(cols), T(3));
      std::vector<T> scratch(b.column_sums_bytes(rows, cols) / sizeof(T));
      b.column_sums(rows, cols, Element<T>{x.read()}, VectorView<T>(out.data(), cols),
                    VectorView<std::byte>(reinterpret_cast<std::byte*>(scratch.data()),
                                          static_cast<Index>(scratch.size() * sizeof(T))));
      CHECK(out == expected);
      const std::uint64_t launches = rows * cols == 0 ? 0 : rows <= sum_chunk ? 1 : 2;
      CHECK(b.leaf().launches() == launches);
    }
  }
}

TEST_CASE_TEMPLATE("nn kernels: gradients of a layer norm's weights", T, float, double) {
  const Index rows = 300, cols = 40;
  auto b = emulated<T>(6);
  NnMatrix<T> x(rows, cols, 1, 1), y(rows, cols, 0, 0), stats(rows, 2, 0, 0), dy(rows, cols, 2, 2),
      d_scale(1, cols, 0, 3), d_bias(1, cols, 0, 4);
  std::vector<double> scale_expected = d_scale.doubles(), bias_expected = d_bias.doubles();
  layer_norm_rows(b, x.read(), d_bias.read_row(), d_bias.read_row(), 1e-6, y.view(), stats.view());
  for (Index r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    for (Index c = 0; c < cols; ++c) mean += static_cast<double>(x(r, c)) / cols;
    for (Index c = 0; c < cols; ++c)
      variance += std::pow(static_cast<double>(x(r, c)) - mean, 2) / cols;
    for (Index c = 0; c < cols; ++c) {
      const auto at = static_cast<std::size_t>(c);
      const auto d = static_cast<double>(dy(r, c));
      scale_expected[at] += d * (static_cast<double>(x(r, c)) - mean) / std::sqrt(variance + 1e-6);
      bias_expected[at] += d;
    }
  }
  std::vector<T> scratch(b.column_sums_bytes(rows, cols) / sizeof(T));
  const VectorView<std::byte> space(reinterpret_cast<std::byte*>(scratch.data()),
                                    static_cast<Index>(scratch.size() * sizeof(T)));
  layer_norm_weights_backward(b, x.read(), stats.read(), dy.read(), d_scale.row(), d_bias.row(),
                              space);
  CHECK(b.leaf().launches() == 5);
  test::check_near(d_scale.dense(), scale_expected);
  test::check_near(d_bias.dense(), bias_expected);
}

}  // namespace nn_flat_test
