#if defined(MOXIE_TEST_THRUST)

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "device/device_backends.hpp"
#include "device/reference.hpp"

namespace moxie::test {
namespace {

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

TEST_CASE_TEMPLATE("DeviceBackend: a row does not depend on the batch", B, DEVICE_BACKENDS) {
  using T = typename B::Scalar;
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
  if (B::batch_invariant) {
    CHECK(together.to_vector() == alone.to_vector());
  } else {
    CHECK(largest_error(together.to_vector(), in_double(alone.to_vector())) <= rounding<T>);
  }
}

}  // namespace
}  // namespace moxie::test

#endif
