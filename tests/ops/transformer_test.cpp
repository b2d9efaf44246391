// Operations of a transformer against loops in double, on strided matrices, as layers use them.
#include <cmath>
#include <vector>

#include "moxie/layer/tape.hpp"
#include "moxie/ops/add_rows.hpp"
#include "moxie/ops/attention.hpp"
#include "moxie/ops/copy_rows.hpp"
#include "moxie/ops/fill_rows.hpp"
#include "moxie/ops/gather_patches.hpp"
#include "moxie/ops/layer_norm.hpp"
#include "moxie/ops/mean_tokens.hpp"
#include "support/backends.hpp"
#include "support/numbers.hpp"

namespace transformer_test {

using namespace moxie;
using moxie::test::make_backend;
using test::to_size;

namespace {

/// A matrix in a backend's memory with unused elements between its rows, filled with waves.
template <class B>
class Padded {
  using T = typename B::Scalar;

 public:
  Padded(B& backend, Index rows, Index cols, Index gap, double from = 0)
      : rows_(rows), cols_(cols), stride_(cols + gap), buffer_(backend, rows * (cols + gap), T(0)) {
    std::vector<T> values;
    for (Index i = 0; i < rows * stride_; ++i)
      values.push_back(static_cast<T>(std::sin(from + 0.7 * static_cast<double>(i))));
    buffer_.assign(values);
    before_ = values;
  }
  Matrix<B> view() const { return buffer_.view(rows_, cols_, stride_); }
  ConstMatrix<B> read() const { return view(); }
  double operator()(Index r, Index c) const {
    return static_cast<double>(buffer_.to_vector()[static_cast<std::size_t>(r * stride_ + c)]);
  }
  std::vector<double> dense() const {
    const std::vector<T> all = buffer_.to_vector();
    std::vector<double> out;
    for (Index i = 0; i < rows_ * cols_; ++i)
      out.push_back(
          static_cast<double>(all[static_cast<std::size_t>(i / cols_ * stride_ + i % cols_)]));
    return out;
  }
  bool gaps_kept() const {
    const std::vector<T> all = buffer_.to_vector();
    for (std::size_t i = 0; i < all.size(); ++i)
      if (static_cast<Index>(i) % stride_ >= cols_ && all[i] != before_[i]) return false;
    return true;
  }

 private:
  Index rows_, cols_, stride_;
  test::Buffer<T, B> buffer_;
  std::vector<T> before_;
};

template <class T>
inline constexpr double tolerance = sizeof(T) == sizeof(float) ? 1e-5 : 1e-12;

void check_near(const std::vector<double>& a, const std::vector<double>& b, double by) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(std::fabs(a[i] - b[i]) <= by * std::fmax(1.0, std::fabs(b[i])));
  }
}
}  // namespace

TEST_CASE_TEMPLATE("layer_norm_rows equals the loop, in place too", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  for (const Index cols : {1, 7, 16, 50}) {
    const Index rows = 300;
    const Padded<B> x(backend, rows, cols, 2), y(backend, rows, cols, 1),
        scale(backend, 1, cols, 0, 1), bias(backend, 1, cols, 0, 2), stats(backend, rows, 2, 0);
    const auto vector = [&](const Padded<B>& p) { return ConstVector<B>(p.view().data, cols); };
    layer_norm_rows(backend, x.read(), vector(scale), vector(bias), 1e-6, y.view(), stats.view());
    const std::vector<double> in = x.dense(), s = scale.dense(), b = bias.dense();
    std::vector<double> expected;
    for (Index r = 0; r < rows; ++r) {
      double mean = 0, variance = 0;
      for (Index c = 0; c < cols; ++c)
        mean += in[to_size(r * cols + c)] / static_cast<double>(cols);
      for (Index c = 0; c < cols; ++c)
        variance += std::pow(in[to_size(r * cols + c)] - mean, 2) / static_cast<double>(cols);
      for (Index c = 0; c < cols; ++c)
        expected.push_back((in[to_size(r * cols + c)] - mean) / std::sqrt(variance + 1e-6) *
                               s[to_size(c)] +
                           b[to_size(c)]);
    }
    check_near(y.dense(), expected, cols == 1 ? 1e-3 : tolerance<T>);
    CHECK(y.gaps_kept());
    const std::vector<double> apart = y.dense();
    layer_norm_rows(backend, x.read(), vector(scale), vector(bias), 1e-6, x.view(), Matrix<B>());
    CHECK(x.dense() == apart);
  }
}

TEST_CASE_TEMPLATE("layer_norm_rows_backward adds what passes beside the norm", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const Index rows = 5, cols = 21;
  const Padded<B> x(backend, rows, cols, 0), y(backend, rows, cols, 0),
      scale(backend, 1, cols, 0, 1), stats(backend, rows, 2, 0), dy(backend, rows, cols, 3, 2),
      beside(backend, rows, cols, 1, 4), alone(backend, rows, cols, 0),
      both(backend, rows, cols, 2);
  const ConstVector<B> s(scale.view().data, cols);
  layer_norm_rows(backend, x.read(), s, s, 1e-6, y.view(), stats.view());
  layer_norm_rows_backward(backend, x.read(), stats.read(), s, dy.read(), ConstMatrix<B>(),
                           alone.view());
  layer_norm_rows_backward(backend, x.read(), stats.read(), s, dy.read(), beside.read(),
                           both.view());
  std::vector<double> expected = alone.dense();
  const std::vector<double> more = beside.dense();
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += more[i];
  check_near(both.dense(), expected, tolerance<T>);
  CHECK(both.gaps_kept());
}

TEST_CASE_TEMPLATE("attention equals the loop on column blocks of one matrix", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  struct Case {
    Index images, queries, keys, heads, width;
  };
  for (const Case& c : {Case{2, 3, 3, 2, 4}, Case{3, 1, 5, 2, 3}, Case{2, 17, 17, 1, 16}}) {
    const AttentionShape shape{c.images, c.queries, c.keys, c.heads, c.width, 0.5};
    const Index columns = c.heads * c.width;
    const Padded<B> q(backend, c.images * c.queries, columns, 3);
    const Padded<B> kv(backend, c.images * c.keys, 2 * columns, 1, 5);
    const Padded<B> o(backend, c.images * c.queries, columns, 2);
    const ConstMatrix<B> k = kv.read().columns(0, columns), v = kv.read().columns(columns, columns);

    Arena<B> measure(Gradients::all);
    AttentionMemory<B> memory;
    attention.bind(backend, measure, shape, memory);
    const Memory<B> bytes(backend, measure.peak());
    Arena<B> arena(Gradients::all, bytes.data(), bytes.bytes());
    attention.bind(backend, arena, shape, memory);
    attention(backend, shape, q.read(), k, v, memory, o.view());

    const std::vector<double> qs = q.dense(), kvs = kv.dense();
    std::vector<double> expected(to_size(c.images * c.queries * columns), 0.0);
    for (Index n = 0; n < c.images; ++n)
      for (Index h = 0; h < c.heads; ++h)
        for (Index i = 0; i < c.queries; ++i) {
          std::vector<double> p;
          double sum = 0;
          for (Index j = 0; j < c.keys; ++j) {
            double score = 0;
            for (Index w = 0; w < c.width; ++w)
              score += qs[to_size((n * c.queries + i) * columns + h * c.width + w)] *
                       kvs[to_size((n * c.keys + j) * 2 * columns + h * c.width + w)];
            p.push_back(std::exp(0.5 * score));
            sum += p.back();
          }
          for (Index j = 0; j < c.keys; ++j)
            for (Index w = 0; w < c.width; ++w)
              expected[to_size((n * c.queries + i) * columns + h * c.width + w)] +=
                  p[to_size(j)] / sum *
                  kvs[to_size((n * c.keys + j) * 2 * columns + columns + h * c.width + w)];
        }
    check_near(o.dense(), expected, tolerance<T>);
    CHECK(o.gaps_kept());
  }
}

TEST_CASE_TEMPLATE("gather_patches and scatter_patches are inverse, and patches lie as promised", B,
                   MOXIE_TEST_BACKENDS) {
  B backend = make_backend<B>();
  const PatchShape s{.height = 4, .width = 6, .channels = 3, .patch = 2};
  CHECK(s.patches() == 6);
  CHECK(s.columns() == 12);
  const Padded<B> images(backend, 2, s.pixels(), 5), back(backend, 2, s.pixels(), 1, 9),
      patches(backend, 2 * s.patches(), s.columns(), 2);
  gather_patches(backend, s, images.read(), patches.view());
  const std::vector<double> from = images.dense(), to = patches.dense();
  for (Index n = 0; n < 2; ++n)
    for (Index py = 0; py < 2; ++py)
      for (Index px = 0; px < 3; ++px)
        for (Index y = 0; y < 2; ++y)
          for (Index x = 0; x < 2; ++x)
            for (Index c = 0; c < 3; ++c)
              CHECK(to[to_size(((n * 2 + py) * 3 + px) * 12 + (y * 2 + x) * 3 + c)] ==
                    from[to_size(n * 72 + ((py * 2 + y) * 6 + px * 2 + x) * 3 + c)]);
  scatter_patches(backend, s, patches.read(), back.view());
  CHECK(back.dense() == from);
  CHECK(patches.gaps_kept());
  CHECK(back.gaps_kept());
}

TEST_CASE_TEMPLATE("Element-wise operations on rows with gaps", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const Index rows = 70, cols = 35;
  const Padded<B> a(backend, rows, cols, 1), b(backend, rows, cols, 2, 3),
      row(backend, 1, cols, 0, 5), out(backend, rows, cols, 4);
  const std::vector<double> left = a.dense(), right = b.dense(), one = row.dense();
  const auto expect = [&](const auto& value) {
    std::vector<double> expected;
    for (Index i = 0; i < rows * cols; ++i)
      expected.push_back(value(to_size(i), to_size(i % cols)));
    check_near(out.dense(), expected, tolerance<T>);
    CHECK(out.gaps_kept());
  };
  add_rows(backend, a.read(), b.read(), out.view());
  expect([&](std::size_t i, std::size_t) { return left[i] + right[i]; });
  add_vector(backend, a.read(), ConstVector<B>(row.view().data, cols), out.view());
  expect([&](std::size_t i, std::size_t c) { return left[i] + one[c]; });
  copy_rows(backend, b.read(), out.view());
  expect([&](std::size_t i, std::size_t) { return right[i]; });
  copy_rows(backend, row.read(), out.view());
  expect([&](std::size_t, std::size_t c) { return one[c]; });
  fill_rows(backend, T(4), out.view());
  expect([&](std::size_t, std::size_t) { return 4.0; });
}

TEST_CASE_TEMPLATE("mean_tokens and its adjoint", B, MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  B backend = make_backend<B>();
  const Index images = 3, tokens = 5, width = 19;
  const Padded<B> x(backend, images, tokens * width, 2), y(backend, images, width, 1),
      dx(backend, images, tokens * width, 3);
  mean_tokens(backend, x.read(), y.view());
  mean_tokens_backward(backend, y.read(), dx.view());
  const std::vector<double> in = x.dense();
  std::vector<double> mean, spread(to_size(images * tokens * width));
  for (Index n = 0; n < images; ++n)
    for (Index c = 0; c < width; ++c) {
      double sum = 0;
      for (Index t = 0; t < tokens; ++t) sum += in[to_size((n * tokens + t) * width + c)];
      mean.push_back(sum / static_cast<double>(tokens));
      for (Index t = 0; t < tokens; ++t)
        spread[to_size((n * tokens + t) * width + c)] = mean.back() / static_cast<double>(tokens);
    }
  check_near(y.dense(), mean, tolerance<T>);
  check_near(dx.dense(), spread, tolerance<T>);
  CHECK(y.gaps_kept());
  CHECK(dx.gaps_kept());
}

}  // namespace transformer_test
