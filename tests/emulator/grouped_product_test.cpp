#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "support/emulator/emulated_leaf.hpp"
#include "support/product_tiles.hpp"

/// The kernels of products of experts alone, each with its tiles. All numbers are small multiples
/// of powers of two, so that every sum is exact in any order and results are compared for equality.
namespace moxie::test {
namespace {

using namespace detail::device;

constexpr double untouched = 77;

struct Numbers {
  std::uint32_t state;
  double operator()() {
    state = state * 1664525U + 1013904223U;
    return (static_cast<double>(state >> 25U) - 64) / 64;  // in [-1, 1), 7 bits: exact in bf16
  }
};

/// A value of any stored type, exactly.
template <class T>
T stored(double v) {
  return T(static_cast<float>(v));
}
template <class T>
double real(T v) {
  return static_cast<double>(static_cast<float>(v));
}

/// Some experts' rows: `before` rows that belong to nobody come first.
struct Work {
  std::vector<std::int32_t> counts;
  std::int32_t before;
  int inner, cols;
  bool gather, scale;
  Index gap;  // between the rows of all matrices
};

std::vector<std::int32_t> offsets(const Work& work) {
  std::vector<std::int32_t> offset = {work.before};
  for (const std::int32_t n : work.counts) offset.push_back(offset.back() + n);
  return offset;
}

/// A matrix whose gaps hold what must not be read.
template <class T>
struct Dense {
  Index rows, cols, stride;
  std::vector<T> values;

  Dense(Index r, Index c, Index gap, Numbers numbers)
      : rows(r),
        cols(c),
        stride(c + gap),
        values(static_cast<std::size_t>(r * (c + gap)),
               T(std::numeric_limits<float>::quiet_NaN())) {
    for (Index i = 0; i < r; ++i) {
      for (Index j = 0; j < c; ++j) (*this)(i, j) = stored<T>(numbers());
    }
    if (gap > 0 && r > 0) values.resize(static_cast<std::size_t>((r - 1) * stride + c));
  }
  T& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * stride + j)]; }
  T operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * stride + j)]; }
  MatrixView<T> view() { return {values.data(), rows, cols, stride}; }
  MatrixView<const T> view() const { return {values.data(), rows, cols, stride}; }
};

/// Rows of a matrix as Work says; rows that belong to nobody have wild indices and NaN as scale.
template <class T, class Scalar>
struct SomeRows {
  static constexpr Index tokens = 37;
  Dense<T> x;
  std::vector<std::int32_t> index;
  std::vector<Scalar> scale;

  SomeRows(const Work& work, Index width, std::uint32_t seed)
      : x(work.gather ? tokens : offsets(work).back(), width, work.gap, Numbers{seed}) {
    const std::int32_t last = offsets(work).back();
    for (std::int32_t r = 0; r < last + 5; ++r) {
      const bool owned = r >= work.before && r < last;
      if (work.gather) index.push_back(owned ? r * 11 % std::int32_t{tokens} : 1 << 30);
      if (work.scale) {
        scale.push_back(owned ? Scalar(r % 3 == 0   ? 0.5
                                       : r % 3 == 1 ? 1
                                                    : 2)
                              : std::numeric_limits<Scalar>::quiet_NaN());
      }
    }
  }
  GatheredRows<T, Scalar> rows() const {
    return {Strided<const T>(x.view()), index.empty() ? nullptr : index.data(),
            scale.empty() ? nullptr : scale.data()};
  }
  double operator()(Index r, Index c) const {
    const auto at = static_cast<std::size_t>(r);
    return (scale.empty() ? 1 : static_cast<double>(scale[at])) *
           real(x(index.empty() ? r : index[at], c));
  }
};

template <class Product, Op op>
void check_product(const Work& work, std::uint64_t seed, Index blocks = 2) {
  using T = typename Product::Element;
  using Sum = typename Product::Sum;
  const std::vector<std::int32_t> offset = offsets(work);
  const auto experts = static_cast<int>(work.counts.size());
  const SomeRows<T, Sum> x(work, work.inner, 1);
  const Dense<T> w(experts * (op == Op::none ? work.inner : work.cols),
                   op == Op::none ? work.cols : work.inner, work.gap, Numbers{2});
  Dense<Sum> out(offset.back() + 3, work.cols, work.gap, Numbers{3});
  for (Sum& v : out.values) v = Sum(untouched);

  EmulatedLeaf leaf(seed);
  leaf.launch({.blocks = blocks,
               .threads = Product::threads,
               .shared_bytes = grouped_product_bytes<Product, op>(experts)},
              grouped_product<Product, op, Sum, StoreEnd<Sum, Sum>>, x.rows(), work.inner,
              offset.data(), experts, Strided<const T>(w.view()), work.cols,
              StoreEnd<Sum, Sum>{{}, Strided<Sum>(out.view())});

  std::size_t wrong = 0;
  std::vector<double> expected(out.values.size(), untouched);
  for (int e = 0; e < experts; ++e) {
    for (Index r = offset[std::size_t(e)]; r < offset[std::size_t(e) + 1]; ++r) {
      for (Index c = 0; c < work.cols; ++c) {
        double sum = 0;
        for (Index k = 0; k < work.inner; ++k) {
          sum +=
              x(r, k) * real(op == Op::none ? w(e * work.inner + k, c) : w(e * work.cols + c, k));
        }
        expected[static_cast<std::size_t>(r * out.stride + c)] = sum;
      }
    }
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    wrong += static_cast<double>(out.values[i]) != expected[i] ? 1U : 0U;
  }
  CHECK(wrong == 0);
}

template <class Product>
void check_weights(Work work, std::uint64_t seed) {
  using T = typename Product::Element;
  using Sum = typename Product::Sum;
  const std::vector<std::int32_t> offset = offsets(work);
  const auto experts = static_cast<int>(work.counts.size());
  work.scale = work.scale && Product::scales;
  Work other = work;
  other.gather = !work.gather;
  const SomeRows<T, Sum> x(work, work.inner, 4);
  const SomeRows<T, Sum> dy(other, work.cols, 5);
  Dense<Sum> dw(experts * work.inner, work.cols, work.gap, Numbers{6});
  const Dense<Sum> before = dw;

  EmulatedLeaf leaf(seed);
  leaf.launch({.blocks = experts * blocks_of(work.inner, Product::rows) *
                         blocks_of(work.cols, Product::cols),
               .threads = Product::threads,
               .shared_bytes = grouped_weights_bytes<Product>()},
              grouped_weights<Product>, x.rows(), dy.rows(), offset.data(), work.inner, work.cols,
              Strided<Sum>(dw.view()));

  std::size_t wrong = 0;
  for (int e = 0; e < experts; ++e) {
    for (Index k = 0; k < work.inner; ++k) {
      for (Index c = 0; c < work.cols; ++c) {
        double sum = static_cast<double>(before(e * work.inner + k, c));
        for (Index r = offset[std::size_t(e)]; r < offset[std::size_t(e) + 1]; ++r) {
          sum += x(r, k) * dy(r, c);
        }
        wrong += static_cast<double>(dw(e * work.inner + k, c)) != sum ? 1U : 0U;
      }
    }
  }
  CHECK(wrong == 0);
}

#define SMALL_PRODUCTS ExactSmall, ExactDouble, TfSmall, BfSmall
#define LARGE_PRODUCTS ExactLarge, TfLarge, BfLarge

// Experts without rows first, between and last; one with more than a tile, one with a single row.
const std::vector<std::int32_t> ragged = {0, 70, 0, 1, 33, 0};

TEST_CASE_TEMPLATE("grouped_product: ragged experts, aligned rows", P, SMALL_PRODUCTS) {
  const Work work{ragged, 2, 72, 88, false, false, 0};
  check_product<P, Op::none>(work, 1);
  check_product<P, Op::transpose>(work, 2);
}

TEST_CASE_TEMPLATE("grouped_product: gathered and scaled, widths that fit no copy", P,
                   SMALL_PRODUCTS) {
  const Work work{ragged, 2, 45, 67, true, true, 3};
  check_product<P, Op::none>(work, 3);
  check_product<P, Op::transpose>(work, 4);
}

TEST_CASE_TEMPLATE("grouped_product: aligned widths with gaps, gathered, in many schedules", P,
                   SMALL_PRODUCTS) {
  const Work work{{5, 0, 9}, 0, 40, 24, true, false, 8};
  for (std::uint64_t seed = 10; seed < 15; ++seed) {
    check_product<P, Op::none>(work, seed, 1);
    check_product<P, Op::transpose>(work, seed, 3);
  }
}

TEST_CASE_TEMPLATE("grouped_product: narrow results and short sums", P, SMALL_PRODUCTS) {
  for (const int width : {1, 7, 8}) {
    const Work work{{3, 2}, 1, width, 9 - width, false, true, 0};
    check_product<P, Op::none>(work, 20);
    check_product<P, Op::transpose>(work, 21);
  }
  const Work nothing{{3, 2}, 1, 0, 5, false, false, 0};
  check_product<P, Op::none>(nothing, 22);  // sums of nothing are written
}

TEST_CASE_TEMPLATE("grouped_product: the large tiles", P, LARGE_PRODUCTS) {
  const Work work{{0, 130, 3}, 1, 40, 136, true, true, 8};
  check_product<P, Op::none>(work, 30);
  check_product<P, Op::transpose>(work, 31);
}

TEST_CASE("grouped_product: more experts than a warp, most of them empty") {
  std::vector<std::int32_t> counts(77, 0);
  counts[0] = 1;
  counts[31] = 65;
  counts[40] = 2;
  counts[76] = 3;
  check_product<ExactSmall, Op::none>({counts, 0, 8, 8, true, false, 0}, 40);
  check_product<ExactSmall, Op::none>({std::vector<std::int32_t>(5, 0), 3, 8, 8, false, false, 0},
                                      41);
}

TEST_CASE_TEMPLATE("grouped_weights: ragged sums, aligned rows", P, SMALL_PRODUCTS) {
  check_weights<P>({ragged, 2, 72, 88, true, false, 0}, 50);
  check_weights<P>({{4, 35}, 0, 8, 16, false, true, 8}, 51);
}

TEST_CASE_TEMPLATE("grouped_weights: gathered and scaled, widths that fit no copy", P,
                   SMALL_PRODUCTS) {
  check_weights<P>({ragged, 2, 45, 67, true, true, 3}, 52);
  for (std::uint64_t seed = 60; seed < 65; ++seed) {
    check_weights<P>({{0, 50, 1}, 1, 5, 3, false, true, 0}, seed);
  }
}

TEST_CASE_TEMPLATE("grouped_weights: the large tiles", P, LARGE_PRODUCTS) {
  check_weights<P>({{0, 40, 3}, 1, 136, 24, true, true, 0}, 70);
}

TEST_CASE("grouped_product: factors of tf32 are rounded, ties away from zero") {
  // 1 + 2^-11 lies between the neighbours 1 and 1 + 2^-10 of tf32.
  const std::vector<float> x = {1 + 1.0F / 2048, -1 - 1.0F / 2048, 1 + 1.0F / 4096, 3};
  const std::vector<float> w = {1};
  const std::vector<std::int32_t> offset = {0, 4};
  std::vector<float> out(4);
  EmulatedLeaf leaf;
  leaf.launch(
      {.threads = TfSmall::threads, .shared_bytes = grouped_product_bytes<TfSmall, Op::none>(1)},
      grouped_product<TfSmall, Op::none, float, StoreEnd<float, float>>,
      GatheredRows<float, float>{Strided<const float>(x.data(), 1, false)}, 1, offset.data(), 1,
      Strided<const float>(w.data(), 1, false), 1,
      StoreEnd<float, float>{{}, Strided<float>(out.data(), 1, false)});
  CHECK(out == std::vector<float>{1 + 1.0F / 1024, -1 - 1.0F / 1024, 1, 3});
}

TEST_CASE("grouped_product: sums in bf16 storage are rounded once, at the end") {
  // 256 + 1 + 1 is 258 in float; bf16 has neighbours 256, 258, 260 and would lose each 1.
  const std::vector<bf16> x = {bf16(256), bf16(1), bf16(1)};
  const std::vector<bf16> w(3, bf16(1));
  const std::vector<std::int32_t> offset = {0, 1};
  const std::vector<float> bias = {1.5F};
  std::vector<bf16> out(1);
  EmulatedLeaf leaf;
  leaf.launch({.threads = BfSmall::threads,
               .shared_bytes = grouped_product_bytes<BfSmall, Op::transpose>(1)},
              grouped_product<BfSmall, Op::transpose, float, StoreEnd<float, bf16>>,
              GatheredRows<bf16, float>{Strided<const bf16>(x.data(), 3, false)}, 3, offset.data(),
              1, Strided<const bf16>(w.data(), 3, false), 1,
              StoreEnd<float, bf16>{Strided<const float>(bias.data(), 1, false),
                                    Strided<bf16>(out.data(), 1, false)});
  CHECK(static_cast<float>(out[0]) == 260);  // 259.5
}

}  // namespace
}  // namespace moxie::test
