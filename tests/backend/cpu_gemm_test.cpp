#include <doctest/doctest.h>

#include <cstring>
#include <limits>

#include "backend/reference.hpp"
#include "moxie/backend/cpu/eigen_product.hpp"
#include "moxie/backend/thread_pool.hpp"

using moxie::CpuBackend;
using moxie::Index;
using moxie::Level;
using moxie::MatrixView;
using moxie::Op;
using moxie::test::Dense;

namespace {

constexpr Op ops[] = {Op::none, Op::transpose};

struct Shape {
  Index rows, cols, inner;
};

template <class T>
Dense<T> factor(Op op, Index rows, Index cols, Index gap, std::uint64_t seed) {
  return op == Op::none ? Dense<T>(rows, cols, gap, seed) : Dense<T>(cols, rows, gap, seed);
}

template <class T>
void check_gemm(const CpuBackend<T>& cpu, Shape s, Op op_a, Op op_b, T alpha, T beta, Index gap) {
  CAPTURE(s.rows);
  CAPTURE(s.cols);
  CAPTURE(s.inner);
  CAPTURE(moxie::to_string(cpu.level()));
  CAPTURE(static_cast<int>(op_a));
  CAPTURE(static_cast<int>(op_b));
  const auto a = factor<T>(op_a, s.rows, s.inner, gap, 1);
  const auto b = factor<T>(op_b, s.inner, s.cols, gap, 2);
  Dense<T> c(s.rows, s.cols, gap, 3);
  if (beta == T(0)) c.fill(std::numeric_limits<T>::quiet_NaN());
  const Dense<T> before = c;
  cpu.gemm(op_a, op_b, alpha, a.view(), b.view(), beta, c.view());
  const Dense<T>& result = c;
  CHECK(moxie::test::product_error(op_a, op_b, alpha, a.view(), b.view(), beta, before.view(),
                                   result.view()) <= moxie::test::sum_error<T>(s.inner));
  CHECK(c.gaps_untouched());
}

/// Heads side by side in a row, images one after another: the layout of attention.
template <class T>
moxie::BatchView<T> heads_of(MatrixView<T> m, Index tokens, Index width, Index heads) {
  return {{m.data, tokens, width, m.stride}, m.rows / tokens, tokens * m.stride, heads, width};
}

}  // namespace

TEST_CASE_TEMPLATE("gemm equals the double loop at every level, for every edge of a tile", T, float,
                   double) {
  for (const Level level : moxie::test::levels()) {
    const CpuBackend<T> cpu({.level = level});
    for (const Op op_a : ops) {
      for (const Op op_b : ops) {
        for (const Shape s :
             {Shape{0, 3, 2}, Shape{3, 0, 2}, Shape{3, 2, 0}, Shape{1, 1, 1}, Shape{2, 3, 5},
              Shape{5, 7, 3}, Shape{6, 16, 8}, Shape{7, 17, 9}, Shape{8, 31, 16}, Shape{9, 33, 31},
              Shape{13, 48, 33}, Shape{24, 64, 64}, Shape{25, 65, 7}, Shape{17, 79, 20},
              Shape{31, 96, 10}, Shape{12, 113, 40}, Shape{11, 145, 24}, Shape{3, 210, 130}}) {
          check_gemm<T>(cpu, s, op_a, op_b, T(1), T(0), 0);
          check_gemm<T>(cpu, s, op_a, op_b, T(0.5), T(-0.75), 3);
          check_gemm<T>(cpu, s, op_a, op_b, T(1), T(1), 1);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("gemm equals the double loop across blocks of rows, columns and sums", T, float,
                   double) {
  moxie::ThreadPool pool(2);
  const CpuBackend<T> one;
  const CpuBackend<T> two(pool);
  for (const Op op_a : ops) {
    for (const Op op_b : ops) {
      for (const Shape s : {Shape{230, 20, 30}, Shape{20, 250, 30}, Shape{150, 70, 400},
                            Shape{10, 10, 1000}, Shape{64, 130, 300}, Shape{300, 200, 200}}) {
        check_gemm<T>(one, s, op_a, op_b, T(1), T(0), 0);
        check_gemm<T>(two, s, op_a, op_b, T(2), T(1), 5);
      }
      check_gemm<T>(one, {40, 60, 300}, op_a, op_b, T(1), T(1), 400);  // rows far apart: packed
    }
  }
}

TEST_CASE_TEMPLATE("gemm by Eigen agrees with gemm by the tile product", T, float, double) {
  moxie::ThreadPool pool(2);
  const CpuBackend<T> own;
  const CpuBackend<T> eigen(pool, {.product = &moxie::eigen_products});
  for (const Op op_a : ops) {
    for (const Op op_b : ops) {
      check_gemm<T>(eigen, {300, 20, 40}, op_a, op_b, T(0.5), T(0), 2);
      check_gemm<T>(eigen, {30, 70, 90}, op_a, op_b, T(1), T(-2), 0);
      const auto a = factor<T>(op_a, 300, 37, 0, 1);
      const auto b = factor<T>(op_b, 37, 50, 0, 2);
      Dense<T> x(300, 50, 0, 3);
      Dense<T> y = x;
      own.gemm(op_a, op_b, T(2), a.view(), b.view(), T(1), x.view());
      eigen.gemm(op_a, op_b, T(2), a.view(), b.view(), T(1), y.view());
      for (Index i = 0; i < 300; ++i) {
        for (Index j = 0; j < 50; ++j) {
          REQUIRE(std::abs(static_cast<double>(x(i, j) - y(i, j))) <=
                  moxie::test::sum_error<T>(80));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("gemm gives a row the same bits alone, in any run of rows, and in the whole", T,
                   float, double) {
  for (const Level level : moxie::test::levels()) {
    const CpuBackend<T> cpu({.level = level});
    for (const Op op_b : ops) {
      for (const Index inner : {3, 64, 300}) {
        const Index rows = 37;
        const Index cols = 83;
        const Dense<T> a(rows, inner, 0, 1);
        const auto b = factor<T>(op_b, inner, cols, 0, 2);
        Dense<T> whole(rows, cols, 0, 3);
        cpu.gemm(Op::none, op_b, T(0.5), a.view(), b.view(), T(0), whole.view());
        for (const Index count : {1, 2, 5, 8, 13}) {
          for (Index first = 0; first + count <= rows; first += 3) {
            Dense<T> part(count, cols, 0, 4);
            cpu.gemm(Op::none, op_b, T(0.5), a.view().middle(first, count), b.view(), T(0),
                     part.view());
            REQUIRE(std::memcmp(part.view().data, whole.view().row(first),
                                sizeof(T) * moxie::test::at(count * cols)) == 0);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("gemm gives the same bits for any number of threads", T, float, double) {
  for (const Op op_a : ops) {
    for (const Op op_b : ops) {
      for (const Shape s : {Shape{500, 120, 70}, Shape{64, 128, 900}, Shape{200, 333, 300}}) {
        const auto a = factor<T>(op_a, s.rows, s.inner, 0, 1);
        const auto b = factor<T>(op_b, s.inner, s.cols, 0, 2);
        Dense<T> expected(s.rows, s.cols, 0, 3);
        const Dense<T> before = expected;
        CpuBackend<T>().gemm(op_a, op_b, T(0.5), a.view(), b.view(), T(0.25), expected.view());
        for (const int threads : {2, 3, 8}) {
          moxie::ThreadPool pool(threads);
          Dense<T> c = before;
          CpuBackend<T>(pool).gemm(op_a, op_b, T(0.5), a.view(), b.view(), T(0.25), c.view());
          CHECK(c.elements() == expected.elements());
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("batched_gemm multiplies each head of each image", T, float, double) {
  moxie::ThreadPool pool(3);
  const Index images = 5;
  const Index heads = 3;
  for (const Level level : moxie::test::levels()) {
    for (const moxie::ProductEngine* const product :
         {static_cast<const moxie::ProductEngine*>(nullptr),
          static_cast<const moxie::ProductEngine*>(&moxie::eigen_products)}) {
      const CpuBackend<T> cpu(pool, {.level = level, .product = product});
      for (const Index tokens : {1, 7, 20}) {
        for (const Index width : {1, 5, 16, 24, 40}) {
          CAPTURE(tokens);
          CAPTURE(width);
          Dense<T> q(images * tokens, heads * width, 2, 1);
          Dense<T> k(images * tokens, heads * width, 2, 2);
          Dense<T> p(images * heads * tokens, tokens, 0, 3);
          Dense<T> o(images * tokens, heads * width, 1, 4);
          const auto head = [&](Dense<T>& m) { return heads_of(m.view(), tokens, width, heads); };
          const moxie::BatchView<T> scores{{p.view().data, tokens, tokens},
                                           images,
                                           heads * tokens * tokens,
                                           heads,
                                           tokens * tokens};
          const auto check = [&](Op op_a, Op op_b, moxie::BatchView<T> a, moxie::BatchView<T> b,
                                 T beta, moxie::BatchView<T> c, Dense<T>& result) {
            const Dense<T> before = result;
            const Index shift = c.first.data - result.view().data;
            cpu.batched_gemm(op_a, op_b, T(0.5), a, b, beta, c);
            double worst = 0;
            for (Index i = 0; i < images; ++i) {
              for (Index h = 0; h < heads; ++h) {
                MatrixView<const T> old = c(i, h);
                old.data = before.view().data + (c(i, h).data - result.view().data) + shift;
                const double error = moxie::test::product_error<T>(op_a, op_b, T(0.5), a(i, h),
                                                                   b(i, h), beta, old, c(i, h));
                worst = error > worst ? error : worst;
              }
            }
            CHECK(worst <= moxie::test::sum_error<T>(tokens + width));
          };
          check(Op::none, Op::transpose, head(q), head(k), T(0), scores, p);
          check(Op::none, Op::none, scores, head(k), T(0), head(o), o);
          check(Op::transpose, Op::none, scores, head(q), T(1), head(o), o);
          CHECK(o.gaps_untouched());
        }
      }
    }
  }
}

TEST_CASE("products refuse shapes that do not agree") {
  const CpuBackend<float> cpu;
  Dense<float> a(4, 3, 0, 1);
  Dense<float> b(3, 5, 0, 2);
  Dense<float> c(4, 6, 0, 3);
  CHECK_THROWS_WITH_AS(cpu.gemm(Op::none, Op::none, 1, a.view(), b.view(), 0, c.view()),
                       "moxie::CpuBackend::gemm: op(a) is [4 x 3], op(b) is [3 x 5], c is [4 x 6]",
                       moxie::shape_error);
  CHECK_THROWS_WITH_AS(
      cpu.batched_gemm(Op::none, Op::none, 1, {a.view(), 2, 0}, {b.view(), 2, 0}, 0,
                       {c.view().columns(0, 5), 3, 0}),
      "moxie::CpuBackend::batched_gemm: a, b, c have 2, 2, 3 images of 1, 1, 1 heads, "
      "expected the same",
      moxie::shape_error);
}
