#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "backend/reference.hpp"
#include "moxie/backend/cpu/eigen_product.hpp"
#include "moxie/backend/thread_pool.hpp"

using moxie::CpuBackend;
using moxie::Index;
using moxie::Op;
using moxie::test::at;
using moxie::test::Dense;

namespace {

using Offsets = std::vector<std::int32_t>;

/// Rows of experts over a matrix of tokens, with memory of their own.
template <class T>
struct Ragged {
  Dense<T> x;
  std::vector<std::int32_t> index;
  std::vector<T> scale;
  Offsets offset;
  Index count;

  Ragged(Offsets offsets, Index tokens, Index width, bool gather, bool scaled, std::uint64_t seed)
      : x(tokens, width, 3, seed), offset(std::move(offsets)), count(offset.back()) {
    for (Index r = 0; gather && r < count; ++r) {
      index.push_back(static_cast<std::int32_t>((r * 7 + 3) % tokens));
    }
    for (Index r = 0; scaled && r < count; ++r)
      scale.push_back(static_cast<T>(0.25 * static_cast<double>(r % 5)));
  }
  Index experts() const { return static_cast<Index>(offset.size()) - 1; }
  moxie::Rows<CpuBackend<T>> rows() const {
    return {x.view(),
            {index.data(), static_cast<Index>(index.size())},
            {scale.data(), static_cast<Index>(scale.size())},
            {offset.data(), experts() + 1},
            count};
  }
};

const std::vector<Offsets>& all_offsets() {
  static const std::vector<Offsets> offsets{{0, 0},
                                            {0, 1},
                                            {0, 5, 5, 9, 40},
                                            {3, 3, 20, 21, 21, 37},
                                            {0, 0, 0, 64, 64},
                                            {10, 300, 301, 420}};
  return offsets;
}

template <class T>
void check_grouped(const CpuBackend<T>& cpu, const Offsets& offsets, Index inner, Index cols, Op op,
                   bool gather, bool scaled) {
  const Ragged<T> in(offsets, gather ? 29 : offsets.back(), inner, gather, scaled, 1);
  const Index experts = in.experts();
  const auto rows = in.rows();
  const Dense<T> w = op == Op::none ? Dense<T>(experts * inner, cols, 2, 2)
                                    : Dense<T>(experts * cols, inner, 2, 2);
  Dense<T> out(in.count + 4, cols, 1, 3);
  out.fill(Dense<T>::untouched);
  cpu.grouped_gemm(rows, op, w.view(), out.view());
  double worst = 0;
  bool elsewhere = true;
  for (Index r = 0; r < in.count + 4; ++r) {
    const Index e = moxie::expert_of_row(in.offset.data(), experts, r);
    for (Index n = 0; n < cols; ++n) {
      if (e < 0) {
        elsewhere = elsewhere && out(r, n) == Dense<T>::untouched;
        continue;
      }
      double sum = 0;
      for (Index p = 0; p < inner; ++p) {
        const T weight = op == Op::none ? w(e * inner + p, n) : w(e * cols + n, p);
        sum += static_cast<double>(rows(r, p)) * static_cast<double>(weight);
      }
      worst = std::fmax(worst, std::abs(sum - static_cast<double>(out(r, n))));
    }
  }
  CHECK(worst <= moxie::test::sum_error<T>(inner));
  CHECK(elsewhere);
  CHECK(out.gaps_untouched());
}

template <class T>
void check_weights(const CpuBackend<T>& cpu, const Offsets& offsets, Index height, Index cols,
                   bool gather, bool scaled) {
  const Ragged<T> in(offsets, gather ? 29 : offsets.back(), height, gather, false, 1);
  const Ragged<T> gradient(offsets, offsets.back(), cols, false, scaled, 2);
  const Index experts = in.experts();
  const auto rows = in.rows();
  const auto dy = gradient.rows();
  Dense<T> dw(experts * height, cols, 2, 3);
  const Dense<T> before = dw;
  cpu.grouped_gemm_weights(rows, dy, dw.view());
  double worst = 0;
  bool kept = true;
  for (Index e = 0; e < experts; ++e) {
    for (Index k = 0; k < height; ++k) {
      for (Index n = 0; n < cols; ++n) {
        double sum = static_cast<double>(before(e * height + k, n));
        for (Index r = in.offset[at(e)]; r < in.offset[at(e + 1)]; ++r) {
          sum += static_cast<double>(rows(r, k)) * static_cast<double>(dy(r, n));
        }
        const T got = dw(e * height + k, n);
        worst = std::fmax(worst, std::abs(sum - static_cast<double>(got)));
        if (in.offset[at(e)] == in.offset[at(e + 1)]) {
          kept = kept && got == before(e * height + k, n);
        }
      }
    }
  }
  CHECK(worst <= moxie::test::sum_error<T>(in.count));
  CHECK(kept);
  CHECK(dw.gaps_untouched());
}

}  // namespace

TEST_CASE_TEMPLATE("grouped_gemm gathers, scales and multiplies each expert's rows", T, float,
                   double) {
  moxie::ThreadPool pool(2);
  for (const moxie::Level level : moxie::test::levels()) {
    const CpuBackend<T> one({.level = level});
    const CpuBackend<T> two(pool, {.level = level});
    for (const Offsets& offsets : all_offsets()) {
      for (const Op op : {Op::none, Op::transpose}) {
        check_grouped<T>(one, offsets, 1, 1, op, false, false);
        check_grouped<T>(one, offsets, 19, 35, op, true, false);
        check_grouped<T>(two, offsets, 64, 70, op, true, true);
        check_grouped<T>(two, offsets, 270, 50, op, false, true);
      }
    }
  }
}

TEST_CASE_TEMPLATE("grouped_gemm_weights adds each expert's rows, and leaves an empty expert alone",
                   T, float, double) {
  moxie::ThreadPool pool(2);
  for (const moxie::Level level : moxie::test::levels()) {
    const CpuBackend<T> one({.level = level});
    const CpuBackend<T> two(pool, {.level = level});
    for (const Offsets& offsets : all_offsets()) {
      check_weights<T>(one, offsets, 1, 1, false, false);
      check_weights<T>(one, offsets, 19, 35, true, false);
      check_weights<T>(two, offsets, 64, 70, true, true);
      check_weights<T>(two, offsets, 150, 90, false, true);
    }
  }
}

TEST_CASE_TEMPLATE("grouped products by Eigen agree with the double loop", T, float, double) {
  moxie::ThreadPool pool(2);
  const CpuBackend<T> cpu(pool, {.product = &moxie::eigen_products});
  for (const Offsets& offsets : all_offsets()) {
    check_grouped<T>(cpu, offsets, 19, 35, Op::none, true, true);
    check_grouped<T>(cpu, offsets, 19, 35, Op::transpose, false, false);
    check_weights<T>(cpu, offsets, 19, 35, true, true);
  }
}

TEST_CASE_TEMPLATE("grouped products give the same bits for any number of threads", T, float,
                   double) {
  const Offsets offsets{0, 100, 100, 417, 420, 700};
  const Ragged<T> in(offsets, 200, 90, true, true, 1);
  const Ragged<T> gradient(offsets, 700, 110, false, true, 2);
  const Dense<T> w(5 * 90, 110, 0, 3);
  Dense<T> out(700, 110, 0, 4);
  Dense<T> dw(5 * 90, 110, 0, 5);
  const Dense<T> before = dw;
  const CpuBackend<T> one;
  one.grouped_gemm(in.rows(), Op::none, w.view(), out.view());
  one.grouped_gemm_weights(in.rows(), gradient.rows(), dw.view());
  for (const int threads : {2, 3, 8}) {
    moxie::ThreadPool pool(threads);
    const CpuBackend<T> cpu(pool);
    Dense<T> other(700, 110, 0, 6);
    Dense<T> other_dw = before;
    cpu.grouped_gemm(in.rows(), Op::none, w.view(), other.view());
    cpu.grouped_gemm_weights(in.rows(), gradient.rows(), other_dw.view());
    CHECK(other.elements() == out.elements());
    CHECK(other_dw.elements() == dw.elements());
  }
}

TEST_CASE_TEMPLATE("a row's bits do not depend on the rows of its expert", T, float, double) {
  const Dense<T> x(100, 70, 0, 1);
  const Dense<T> w(3 * 70, 50, 0, 2);
  const CpuBackend<T> cpu;
  Dense<T> whole(100, 50, 0, 3);
  const Offsets all{0, 0, 100, 100};
  cpu.grouped_gemm(moxie::Rows<CpuBackend<T>>{x.view(), {}, {}, {all.data(), 4}, 100}, Op::none,
                   w.view(), whole.view());
  for (std::int32_t r = 0; r < 100; r += 9) {
    Dense<T> alone(100, 50, 0, 4);
    const Offsets one{r, r, r + 1, r + 1};
    cpu.grouped_gemm(moxie::Rows<CpuBackend<T>>{x.view(), {}, {}, {one.data(), 4}, 100}, Op::none,
                     w.view(), alone.view());
    for (Index n = 0; n < 50; ++n) REQUIRE(alone(r, n) == whole(r, n));
  }
}

TEST_CASE("grouped products refuse shapes that do not agree") {
  const CpuBackend<float> cpu;
  const Ragged<float> in({0, 2, 4}, 4, 3, false, false, 1);
  Dense<float> w(6, 5, 0, 2);
  Dense<float> small(3, 5, 0, 3);
  Dense<float> narrow(4, 4, 0, 3);
  CHECK_THROWS_WITH_AS(
      cpu.grouped_gemm(in.rows(), Op::none, w.view(), small.view()),
      "moxie::CpuBackend::grouped_gemm: out has 3 rows, expected 4 (the last offset)",
      moxie::shape_error);
  CHECK_THROWS_WITH_AS(
      cpu.grouped_gemm(in.rows(), Op::none, w.view(), narrow.view()),
      "moxie::CpuBackend::grouped_gemm: rows are 3 wide, out 4, and w is [6 x 5] for 2 "
      "experts, op none",
      moxie::shape_error);
  CHECK_THROWS_WITH_AS(
      cpu.grouped_gemm_weights(in.rows(), in.rows(), w.view()),
      "moxie::CpuBackend::grouped_gemm_weights: rows are 3 wide for 2 experts, dy 3 wide "
      "for 2, and dw is [6 x 5]",
      moxie::shape_error);
}
