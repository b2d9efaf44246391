#include <doctest/doctest.h>

#if !defined(MOXIE_TEST_THRUST)
#include "support/skip.hpp"

TEST_CASE("DeviceBackend equals plain loops") { MOXIE_SKIP("built without Thrust's headers"); }
#else

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "device/deferred_leaf.hpp"
#include "device/reference.hpp"
#include "moxie/backend/thrust_host.hpp"
#include "support/buffer.hpp"

// One of each scalar and of each kind of memory: every further one costs seconds of compile time.
#define DEVICE_BACKENDS ::moxie::ThrustHostBackend<float>, ::moxie::test::DeferredBackend<double>

TYPE_TO_STRING_AS("ThrustHostBackend<float>", moxie::ThrustHostBackend<float>);
TYPE_TO_STRING_AS("DeferredBackend<double>", moxie::test::DeferredBackend<double>);

namespace moxie::test {
namespace {

constexpr double unwritten = 77;

template <class B>
Buffer<std::byte, B> scratch_of(B& backend, std::size_t bytes) {
  return {backend, static_cast<Index>(bytes), std::byte{0xCB}};
}

struct CountOne {
  std::int32_t* count;
  MOXIE_HD void operator()(Index i) const { ++count[i]; }
};

template <class T, class Space>
struct Number {
  MatrixView<T, Space> out;
  MOXIE_HD void operator()(Index i, Index j) const { out(i, j) += static_cast<T>(100 * i + j); }
};

template <class T, class Space>
struct Square {
  MatrixView<const T, Space> x;
  MOXIE_HD T operator()(Index i, Index j) const { return x(i, j) * x(i, j); }
};

TEST_CASE_TEMPLATE("DeviceBackend allocates 256-byte aligned memory and copies both ways", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  for (const std::size_t bytes : {0U, 1U, 4097U}) {
    void* p = backend.allocate(bytes);
    CHECK(p != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(p) % 256 == 0);
    backend.deallocate(p, bytes);
  }

  const std::vector<T> values = numbers<T>(1001, 1);
  Buffer<T, B> first(backend, values);
  Buffer<T, B> second(backend, 1001, T(0));
  backend.copy(second.data(), first.data(), values.size() * sizeof(T));
  CHECK(second.to_vector() == values);
  backend.copy(second.data(), first.data(), 0);
  backend.copy_from_host(nullptr, nullptr, 0);
  backend.copy_to_host(nullptr, nullptr, 0);
}

TEST_CASE_TEMPLATE("DeviceBackend fills scalars and integers", B, DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  Buffer<T, B> x(backend, 301, T(0));
  backend.fill(x.view().middle(1, 299), 2.5F);
  std::vector<T> expected(301, T(2.5));
  expected.front() = expected.back() = 0;
  CHECK(x.to_vector() == expected);

  Buffer<std::int32_t, B> i(backend, 5, 0);
  backend.fill(i.view(), -3);
  CHECK(i.to_vector() == std::vector<std::int32_t>(5, -3));
  backend.fill(i.view().middle(5, 0), 9);
  CHECK(i.to_vector() == std::vector<std::int32_t>(5, -3));
}

TEST_CASE_TEMPLATE("DeviceBackend::for_each visits each index once", B, DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  Buffer<std::int32_t, B> count(backend, 1000, 0);
  backend.for_each(0, CountOne{count.data()});
  backend.for_each(777, CountOne{count.data()});
  backend.for_each(777, CountOne{count.data()}, 64);
  std::vector<std::int32_t> expected(1000, 0);
  std::fill_n(expected.begin(), 777, 2);
  CHECK(count.to_vector() == expected);

  Buffer<T, B> out(backend, 7 * 16, T(0));
  const Number<T, typename B::Space> number{out.view(7, 13, 16)};
  backend.for_each(7, 13, number);
  backend.for_each(0, 13, number);
  backend.for_each(7, 0, number);
  const std::vector<T> written = out.to_vector();
  for (Index i = 0; i < 7; ++i) {
    for (Index j = 0; j < 16; ++j) {
      CHECK(written[std::size_t(i * 16 + j)] == (j < 13 ? T(100 * i + j) : T(0)));
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::column_sums adds fixed chunks in ascending order", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Index cols = 5;
  for (const Index rows : {0, 1, 255, 256, 257, 1000}) {
    CAPTURE(rows);
    const std::vector<T> values = numbers<T>(rows * cols, 3);
    const std::vector<T> before = numbers<T>(cols, 4);
    Buffer<T, B> x(backend, values);
    Buffer<T, B> out(backend, before);
    auto scratch = scratch_of(backend, backend.column_sums_bytes(rows, cols));

    backend.column_sums(rows, cols, Square<T, typename B::Space>{x.view(rows, cols)}, out.view(),
                        scratch.view());

    std::vector<T> same_order = before;
    std::vector<double> expected = in_double(before);
    for (Index c = 0; c < cols; ++c) {
      T total = 0;
      for (Index first = 0; first < rows; first += sum_chunk) {
        T sum = 0;
        for (Index r = first; r < std::min(rows, first + sum_chunk); ++r) {
          const T v = values[std::size_t(r * cols + c)];
          sum += v * v;
          expected[std::size_t(c)] += double(v) * double(v);
        }
        total += sum;
      }
      same_order[std::size_t(c)] += total;
    }
    const std::vector<T> sums = out.to_vector();
    CHECK(largest_error(sums, expected) <= rounding<T>);
    CHECK(largest_error(sums, in_double(same_order)) <= std::numeric_limits<T>::epsilon());
  }
}

struct Factors {
  double alpha, beta;
};

/// Sizes and ops of a product, and the shapes of its factors as they are stored.
struct Product {
  Index rows, cols, inner;
  Op op_a = Op::none;
  Op op_b = Op::none;
  Index a_rows() const { return op_a == Op::none ? rows : inner; }
  Index a_cols() const { return op_a == Op::none ? inner : rows; }
  Index b_rows() const { return op_b == Op::none ? inner : cols; }
  Index b_cols() const { return op_b == Op::none ? cols : inner; }
  std::string text() const {
    return std::to_string(rows) + " x " + std::to_string(cols) + " x " + std::to_string(inner) +
           (op_a == Op::none ? ", a" : ", a^T") + (op_b == Op::none ? " b" : " b^T");
  }
};

TEST_CASE_TEMPLATE("DeviceBackend::gemm equals the plain loop on strided views", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Index gap = 3;  // unused elements between the rows of each matrix
  std::vector<Product> products;
  for (const Product& sizes :
       {Product{7, 33, 13}, Product{1, 65, 1}, Product{9, 1, 4}, Product{1, 1, 1}, Product{5, 3, 0},
        Product{0, 4, 2}, Product{4, 0, 2}}) {
    for (const Op op_a : {Op::none, Op::transpose}) {
      for (const Op op_b : {Op::none, Op::transpose}) {
        products.push_back({sizes.rows, sizes.cols, sizes.inner, op_a, op_b});
      }
    }
  }
  for (const Product& p : products) {
    for (const Factors f : {Factors{1, 0}, Factors{0.5, 1}, Factors{-2, 0.25}}) {
      CAPTURE(p.text());
      CAPTURE(f.beta);
      const std::vector<T> a = numbers<T>(p.a_rows() * (p.a_cols() + gap), 5);
      const std::vector<T> b = numbers<T>(p.b_rows() * (p.b_cols() + gap), 6);
      std::vector<T> c = numbers<T>(p.rows * (p.cols + gap), 7);
      std::vector<double> expected = in_double(c);
      for (Index i = 0; i < p.rows; ++i) {
        for (Index j = 0; j < p.cols; ++j) {
          double sum = 0;
          for (Index k = 0; k < p.inner; ++k) {
            sum += element(a, p.a_cols() + gap, p.op_a, i, k) *
                   element(b, p.b_cols() + gap, p.op_b, k, j);
          }
          const auto at = std::size_t(i * (p.cols + gap) + j);
          expected[at] = f.alpha * sum + f.beta * expected[at];
          if (f.beta == 0) c[at] = std::numeric_limits<T>::quiet_NaN();
        }
      }
      const Buffer<T, B> a_buffer(backend, a);
      const Buffer<T, B> b_buffer(backend, b);
      const Buffer<T, B> c_buffer(backend, c);

      backend.gemm(p.op_a, p.op_b, T(f.alpha),
                   a_buffer.view(p.a_rows(), p.a_cols(), p.a_cols() + gap),
                   b_buffer.view(p.b_rows(), p.b_cols(), p.b_cols() + gap), T(f.beta),
                   c_buffer.view(p.rows, p.cols, p.cols + gap));

      CHECK(largest_error(c_buffer.to_vector(), expected) <= rounding<T>);
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::gemm takes single rows and empty widths of any stride", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Buffer<T, B> a(backend, {T(2), T(3)});
  const Buffer<T, B> b(backend, {T(5), T(7)});
  const Buffer<T, B> c(backend, {T(1), T(1)});
  backend.gemm(Op::none, Op::transpose, T(1), a.view(1, 2, 0), b.view(1, 2, 0), T(0),
               c.view(1, 1, 0));
  CHECK(c.to_vector() == std::vector<T>{31, 1});
  backend.gemm(Op::none, Op::none, T(1), a.view(2, 0), b.view(0, 1), T(2), c.view(2, 1));
  CHECK(c.to_vector() == std::vector<T>{62, 2});
}

/// images x heads matrices of rows x cols; `joined` heads lie side by side in a row, as attention
/// has them.
struct BatchLayout {
  Index rows, cols, images, heads;
  bool joined;
  Index stride() const { return joined ? heads * cols + 1 : cols + 1; }
  Index head_stride() const { return joined ? cols : rows * stride(); }
  Index image_stride() const { return joined ? rows * stride() : heads * rows * stride(); }
  Index size() const { return images * (joined ? 1 : heads) * rows * stride(); }
  Index origin(Index image, Index head) const {
    return image * image_stride() + head * head_stride();
  }
  Index at(Index image, Index head, Op op, Index i, Index j) const {
    return origin(image, head) + (op == Op::none ? i * stride() + j : j * stride() + i);
  }
  template <class T, class B>
  BatchView<T, typename B::Space> view(const Buffer<T, B>& buffer) const {
    return {{buffer.data(), rows, cols, stride()}, images, image_stride(), heads, head_stride()};
  }
};

struct BatchCase {
  Index images, heads;
  bool a_joined, b_joined, c_joined;
};

TEST_CASE_TEMPLATE("DeviceBackend::batched_gemm equals the plain loop for every layout", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  std::vector<Product> products;
  for (const Op op_a : {Op::none, Op::transpose}) {
    for (const Op op_b : {Op::none, Op::transpose}) products.push_back({5, 4, 3, op_a, op_b});
  }
  const std::vector<BatchCase> cases = {{3, 2, false, false, false}, {3, 2, true, false, false},
                                        {2, 3, false, true, true},   {1, 4, true, true, true},
                                        {4, 1, false, true, false},  {3, 2, true, true, true},
                                        {3, 2, false, false, true},  {3, 2, false, true, false},
                                        {0, 2, false, false, false}, {2, 0, true, false, false}};
  for (const BatchCase& batch : cases) {
    for (const Product& p : products) {
      for (const Factors f : {Factors{1, 0}, Factors{-0.5, 2}}) {
        CAPTURE(batch.images);
        CAPTURE(batch.heads);
        CAPTURE(p.text());
        const BatchLayout la{p.a_rows(), p.a_cols(), batch.images, batch.heads, batch.a_joined};
        const BatchLayout lb{p.b_rows(), p.b_cols(), batch.images, batch.heads, batch.b_joined};
        const BatchLayout lc{p.rows, p.cols, batch.images, batch.heads, batch.c_joined};
        const std::vector<T> a = numbers<T>(la.size(), 8);
        const std::vector<T> b = numbers<T>(lb.size(), 9);
        std::vector<T> c = numbers<T>(lc.size(), 10);
        std::vector<double> expected = in_double(c);
        for (Index n = 0; n < batch.images; ++n) {
          for (Index h = 0; h < batch.heads; ++h) {
            for (Index i = 0; i < p.rows; ++i) {
              for (Index j = 0; j < p.cols; ++j) {
                double sum = 0;
                for (Index k = 0; k < p.inner; ++k) {
                  sum += double(a[std::size_t(la.at(n, h, p.op_a, i, k))]) *
                         double(b[std::size_t(lb.at(n, h, p.op_b, k, j))]);
                }
                const auto at = std::size_t(lc.at(n, h, Op::none, i, j));
                expected[at] = f.alpha * sum + f.beta * expected[at];
                if (f.beta == 0) c[at] = std::numeric_limits<T>::quiet_NaN();
              }
            }
          }
        }
        const Buffer<T, B> a_buffer(backend, a);
        const Buffer<T, B> b_buffer(backend, b);
        const Buffer<T, B> c_buffer(backend, c);

        backend.batched_gemm(p.op_a, p.op_b, T(f.alpha), la.view(a_buffer), lb.view(b_buffer),
                             T(f.beta), lc.view(c_buffer));

        CHECK(largest_error(c_buffer.to_vector(), expected) <= rounding<T>);
      }
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::batched_gemm repeats a matrix of stride zero", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Buffer<T, B> a(backend, {T(2)});
  const Buffer<T, B> b(backend, {T(1), T(3), T(5), T(7)});
  const Buffer<T, B> c(backend, 4, T(0));
  backend.batched_gemm(Op::none, Op::none, T(1), {a.view(1, 1), 4, 0}, {b.view(1, 1), 4, 1}, T(0),
                       {c.view(1, 1), 4, 1});
  CHECK(c.to_vector() == std::vector<T>{2, 6, 10, 14});
}

/// Three experts, the second without rows; the first rows and the last belong to nobody, and what
/// stands there must not even be read: their indices point far outside.
struct Groups {
  static constexpr Index capacity = 12;
  static constexpr Index experts = 3;
  static constexpr Index tokens = 6;
  std::vector<std::int32_t> offset = {2, 5, 5, 9};
  std::vector<std::int32_t> index = {1 << 30, -(1 << 30), 3, 0,       5,       2,
                                     2,       1,          4, 1 << 30, 1 << 30, -(1 << 30)};

  Index expert(Index r) const {
    for (Index e = 0; e < experts; ++e) {
      if (r >= offset[std::size_t(e)] && r < offset[std::size_t(e) + 1]) return e;
    }
    return -1;
  }
};

struct RowsCase {
  bool gather, scale;
};

/// Rows of one matrix, by index or as they lie, scaled or not, and their values on the host.
template <class B>
class SomeRows {
  using T = typename B::Scalar;

 public:
  SomeRows(B& backend, const Groups& groups, RowsCase kind, Index width, std::uint32_t seed)
      : kind_(kind),
        width_(width),
        values_(numbers<T>((kind.gather ? Groups::tokens : Groups::capacity) * (width + 2), seed)),
        scales_(numbers<T>(Groups::capacity, seed + 1)),
        groups_(groups),
        x_(backend, values_),
        scale_(backend, scales_),
        index_(backend, groups.index),
        offset_(backend, groups.offset) {}

  Rows<B> rows() const {
    Rows<B> r{};
    r.x = x_.view(kind_.gather ? Groups::tokens : Groups::capacity, width_, width_ + 2);
    if (kind_.gather) r.index = index_.view();
    if (kind_.scale) r.scale = scale_.view();
    r.offset = offset_.view();
    r.rows = Groups::capacity;
    return r;
  }
  double value(Index r, Index c) const {
    const Index source = kind_.gather ? groups_.index[std::size_t(r)] : r;
    const double factor = kind_.scale ? double(scales_[std::size_t(r)]) : 1.0;
    return factor * double(values_[std::size_t(source * (width_ + 2) + c)]);
  }

 private:
  RowsCase kind_;
  Index width_;
  std::vector<T> values_;
  std::vector<T> scales_;
  Groups groups_;
  Buffer<T, B> x_;
  Buffer<T, B> scale_;
  Buffer<std::int32_t, B> index_;
  Buffer<std::int32_t, B> offset_;
};

TEST_CASE_TEMPLATE("DeviceBackend::grouped_gemm gathers, scales and writes its rows only", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Groups groups;
  const Index inner = 7, cols = 5;
  for (const auto kind : {RowsCase{false, false}, RowsCase{true, false}, RowsCase{false, true},
                          RowsCase{true, true}}) {
    for (const Op op : {Op::none, Op::transpose}) {
      CAPTURE(kind.gather);
      CAPTURE(kind.scale);
      CAPTURE(static_cast<int>(op));
      const SomeRows<B> x(backend, groups, kind, inner, 11);
      const Index w_rows = op == Op::none ? inner : cols;  // of one expert
      const Index w_cols = op == Op::none ? cols : inner;
      const std::vector<T> w = numbers<T>(Groups::experts * w_rows * (w_cols + 1), 13);
      const Buffer<T, B> w_buffer(backend, w);
      const Buffer<T, B> out(backend, Groups::capacity * (cols + 2), T(unwritten));
      std::vector<double> expected(std::size_t(out.size()), unwritten);
      for (Index r = 0; r < Groups::capacity; ++r) {
        const Index e = groups.expert(r);
        if (e < 0) continue;
        for (Index c = 0; c < cols; ++c) {
          double sum = 0;
          for (Index k = 0; k < inner; ++k) {
            const Index row = e * w_rows + (op == Op::none ? k : c);
            const Index col = op == Op::none ? c : k;
            sum += x.value(r, k) * double(w[std::size_t(row * (w_cols + 1) + col)]);
          }
          expected[std::size_t(r * (cols + 2) + c)] = sum;
        }
      }

      backend.grouped_gemm(x.rows(), op,
                           w_buffer.view(Groups::experts * w_rows, w_cols, w_cols + 1),
                           out.view(Groups::capacity, cols, cols + 2));

      CHECK(largest_error(out.to_vector(), expected) <= rounding<T>);
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::grouped_gemm_weights adds the rows of each expert", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Groups groups;
  const Index inner = 7, cols = 5;
  for (const auto kind : {RowsCase{false, false}, RowsCase{true, false}, RowsCase{false, true},
                          RowsCase{true, true}}) {
    CAPTURE(kind.gather);
    CAPTURE(kind.scale);
    const SomeRows<B> x(backend, groups, kind, inner, 14);
    const SomeRows<B> dy(backend, groups, {!kind.gather, kind.scale}, cols, 16);
    std::vector<T> before = numbers<T>(Groups::experts * inner * (cols + 2), 18);
    const Buffer<T, B> dw(backend, before);
    std::vector<double> expected = in_double(before);
    for (Index r = 0; r < Groups::capacity; ++r) {
      const Index e = groups.expert(r);
      if (e < 0) continue;
      for (Index k = 0; k < inner; ++k) {
        for (Index c = 0; c < cols; ++c) {
          expected[std::size_t((e * inner + k) * (cols + 2) + c)] += x.value(r, k) * dy.value(r, c);
        }
      }
    }

    backend.grouped_gemm_weights(x.rows(), dy.rows(),
                                 dw.view(Groups::experts * inner, cols, cols + 2));

    const std::vector<T> sums = dw.to_vector();
    CHECK(largest_error(sums, expected) <= rounding<T>);
    const auto empty = std::ptrdiff_t(inner * (cols + 2));  // the second expert, bit for bit
    CHECK(std::equal(sums.begin() + empty, sums.begin() + 2 * empty, before.begin() + empty));
  }
}

TEST_CASE_TEMPLATE("DeviceBackend: grouped products of no rows and of no experts", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  B backend;
  const Buffer<T, B> x(backend, 6, T(1));
  const Buffer<T, B> out(backend, 6, T(unwritten));
  for (const std::size_t offsets : {1U, 4U}) {
    const Buffer<std::int32_t, B> offset(backend, std::vector<std::int32_t>(offsets, 0));
    const auto experts = static_cast<Index>(offsets) - 1;
    const Buffer<T, B> w(backend, experts * 4, T(2));
    Rows<B> rows{};
    rows.x = x.view(3, 2);
    rows.offset = offset.view();
    rows.rows = 3;
    backend.grouped_gemm(rows, Op::none, w.view(experts * 2, 2), out.view(3, 2));
    CHECK(out.to_vector() == std::vector<T>(6, T(unwritten)));
    backend.grouped_gemm_weights(rows, rows, w.view(experts * 2, 2));
    CHECK(w.to_vector() == std::vector<T>(std::size_t(experts) * 4, T(2)));
  }
}

TEST_CASE_TEMPLATE("DeviceBackend: the bits of a row do not depend on the batch", B,
                   DEVICE_BACKENDS) {
  using T = typename B::Scalar;
  static_assert(B::batch_invariant);
  B backend;
  const Index rows = 41, cols = 37, inner = 53;
  const Buffer<T, B> a(backend, numbers<T>(rows * inner, 19));
  const Buffer<T, B> b(backend, numbers<T>(inner * cols, 20));
  const Buffer<T, B> together(backend, rows * cols, T(0));
  const Buffer<T, B> alone(backend, rows * cols, T(0));
  backend.gemm(Op::none, Op::none, T(1), a.view(rows, inner), b.view(inner, cols), T(0),
               together.view(rows, cols));
  for (Index r = 0; r < rows; ++r) {
    backend.gemm(Op::none, Op::none, T(1), a.view(rows, inner).middle(r, 1), b.view(inner, cols),
                 T(0), alone.view(rows, cols).middle(r, 1));
  }
  CHECK(together.to_vector() == alone.to_vector());
}

TEST_CASE_TEMPLATE("DeviceBackend::sort_pairs is stable for any number of bits", B,
                   DEVICE_BACKENDS) {
  B backend;
  for (const int bits : {0, 1, 3, 8, 9, 16, 17, 31}) {
    for (const Index n : {0, 1, 2, 777}) {
      CAPTURE(bits);
      CAPTURE(n);
      const auto size = static_cast<std::size_t>(n);
      std::vector<std::int32_t> keys(size);
      std::uint32_t state = 21;
      for (std::int32_t& key : keys) {
        state = state * 1664525U + 1013904223U;
        key = static_cast<std::int32_t>((state >> 1) >> (31 - bits));
      }
      std::vector<std::int32_t> order(size);
      std::iota(order.begin(), order.end(), 0);
      const Buffer<std::int32_t, B> key_buffer(backend, keys);
      const Buffer<std::int32_t, B> value_buffer(backend, order);
      auto scratch = scratch_of(backend, backend.sort_pairs_bytes(n));

      backend.sort_pairs(key_buffer.view(), value_buffer.view(), bits, scratch.view());

      std::stable_sort(order.begin(), order.end(), [&](std::int32_t i, std::int32_t j) {
        return keys[std::size_t(i)] < keys[std::size_t(j)];
      });
      std::sort(keys.begin(), keys.end());
      CHECK(key_buffer.to_vector() == keys);
      CHECK(value_buffer.to_vector() == order);
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::exclusive_scan, also in place", B, DEVICE_BACKENDS) {
  B backend;
  for (const Index n : {0, 1, 1001}) {
    CAPTURE(n);
    std::vector<std::int32_t> counts(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] = static_cast<std::int32_t>(i % 7);
    std::vector<std::int32_t> expected(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), expected.begin(), 0);
    const Buffer<std::int32_t, B> in(backend, counts);
    const Buffer<std::int32_t, B> out(backend, n, -1);
    auto scratch = scratch_of(backend, backend.exclusive_scan_bytes(n));

    backend.exclusive_scan(in.view(), out.view(), scratch.view());
    CHECK(out.to_vector() == expected);
    CHECK(in.to_vector() == counts);
    backend.exclusive_scan(in.view(), in.view(), scratch.view());
    CHECK(in.to_vector() == expected);
  }
}

TEST_CASE("DeviceBackend says who lacks how much scratch") {
  using B = DeferredBackend<double>;
  B backend;
  Buffer<std::int32_t, B> keys(backend, 10, 0);
  auto scratch = scratch_of(backend, 12);
  const std::string needed = std::to_string(backend.sort_pairs_bytes(10));
  const std::string text =
      "moxie::DeviceBackend::sort_pairs: scratch has 12 bytes, expected at least " + needed +
      " (sort_pairs_bytes)";
  CHECK_THROWS_WITH_AS(backend.sort_pairs(keys.view(), keys.view(), 3, scratch.view()),
                       text.c_str(), shape_error);

  Buffer<double, B> x(backend, 600, 1);
  Buffer<double, B> out(backend, 2, 5);
  CHECK_THROWS_AS(backend.column_sums(300, 2, Square<double, DeviceSpace>{x.view(300, 2)},
                                      out.view(), scratch.view()),
                  shape_error);
  CHECK(backend.leaf().device().pending() == 0);
}

TEST_CASE("DeviceBackend refuses shapes that do not fit, before it enqueues anything") {
  using B = DeferredBackend<double>;
  B backend;
  const Buffer<double, B> x(backend, 100, 1);
  const Buffer<std::int32_t, B> i(backend, {0, 1, 2, 3});
  auto scratch = scratch_of(backend, 1024);
  const auto refused = [&](const auto& call, const char* text) {
    CHECK_THROWS_WITH_AS(call(), text, shape_error);
    CHECK(backend.leaf().device().pending() == 0);
  };
  const auto m = [&](Index rows, Index cols) { return x.view(rows, cols); };

  refused([&] { backend.gemm(Op::none, Op::transpose, 1, m(2, 3), m(4, 5), 0, m(2, 4)); },
          "moxie::DeviceBackend::gemm: op(a) is [2 x 3], op(b) is [5 x 4], c is [2 x 4]");
  refused([&] { backend.gemm(Op::transpose, Op::none, 1, m(3, 2), m(3, 5), 0, m(2, 4)); },
          "moxie::DeviceBackend::gemm: op(a) is [2 x 3], op(b) is [3 x 5], c is [2 x 4]");
  refused(
      [&] {
        backend.batched_gemm(Op::none, Op::none, 1, {m(2, 2), 3, 4}, {m(2, 2), 3, 4}, 0,
                             {m(1, 2), 3, 4});
      },
      "moxie::DeviceBackend::batched_gemm: op(a) is [2 x 2], op(b) is [2 x 2], c is [1 x 2]");
  refused(
      [&] {
        backend.batched_gemm(Op::none, Op::none, 1, {m(2, 2), 3, 4}, {m(2, 2), 2, 4}, 0,
                             {m(2, 2), 3, 4});
      },
      "moxie::DeviceBackend::batched_gemm: a, b, c have 3, 2, 3 images of 1, 1, 1 heads, "
      "expected the same");

  Rows<B> rows{};
  rows.x = m(5, 2);
  rows.offset = i.view();  // three experts
  rows.rows = 5;
  refused([&] { backend.grouped_gemm(rows, Op::none, m(5, 4), m(5, 4)); },
          "moxie::DeviceBackend::grouped_gemm: rows are 2 wide, out 4, and w is [5 x 4] for 3 "
          "experts, op none");
  refused([&] { backend.grouped_gemm(rows, Op::transpose, m(12, 3), m(5, 4)); },
          "moxie::DeviceBackend::grouped_gemm: rows are 2 wide, out 4, and w is [12 x 3] for 3 "
          "experts, op transpose");
  refused([&] { backend.grouped_gemm(rows, Op::none, m(6, 4), m(4, 4)); },
          "moxie::DeviceBackend::grouped_gemm: out has 4 rows, expected at least 5 (rows.rows)");
  Rows<B> fewer = rows;
  fewer.offset = i.view().middle(0, 3);
  refused([&] { backend.grouped_gemm_weights(rows, fewer, m(6, 2)); },
          "moxie::DeviceBackend::grouped_gemm_weights: rows are 2 wide for 3 experts, dy 2 wide "
          "for 2, and dw is [6 x 2]");
  refused([&] { backend.grouped_gemm_weights(rows, rows, m(6, 3)); },
          "moxie::DeviceBackend::grouped_gemm_weights: rows are 2 wide for 3 experts, dy 2 wide "
          "for 3, and dw is [6 x 3]");

  refused(
      [&] {
        backend.column_sums(4, 2, Square<double, DeviceSpace>{m(4, 2)}, x.view().middle(0, 3),
                            scratch.view());
      },
      "moxie::DeviceBackend::column_sums: out has 3 elements, expected 2");
  refused([&] { backend.sort_pairs(i.view(), i.view().middle(0, 3), 2, scratch.view()); },
          "moxie::DeviceBackend::sort_pairs: 4 keys of 2 bits and 3 values, expected as many of "
          "both and at most 31 bits");
  refused([&] { backend.sort_pairs(i.view(), i.view(), 32, scratch.view()); },
          "moxie::DeviceBackend::sort_pairs: 4 keys of 32 bits and 4 values, expected as many of "
          "both and at most 31 bits");
  refused([&] { backend.exclusive_scan(i.view(), i.view().middle(0, 3), scratch.view()); },
          "moxie::DeviceBackend::exclusive_scan: in has 4 elements, out 3, expected the same");
}

TEST_CASE("DeviceBackend only enqueues") {
  DeferredBackend<double> backend;
  DeferredDevice& device = backend.leaf().device();
  const Buffer<double, DeferredBackend<double> > x(backend, 4, 1);
  const Buffer<std::int32_t, DeferredBackend<double> > keys(backend, {3, 1, 2, 0});
  auto scratch = scratch_of(backend, 1024);
  CHECK(device.pending() == 0);

  std::size_t calls = 0;
  backend.fill(x.view(), 2);
  CHECK(device.pending() == ++calls);
  backend.copy(x.data() + 2, x.data(), 2 * sizeof(double));
  CHECK(device.pending() == ++calls);
  backend.gemm(Op::none, Op::none, 1, x.view(2, 1), x.view(1, 2), 0, x.view(2, 2));
  CHECK(device.pending() == ++calls);
  backend.sort_pairs(keys.view(), keys.view(), 2, scratch.view());
  CHECK(device.pending() == ++calls);
  backend.exclusive_scan(keys.view(), keys.view(), scratch.view());
  CHECK(device.pending() == ++calls);
  backend.synchronize();
  CHECK(device.pending() == 0);
}

}  // namespace
}  // namespace moxie::test

#endif
