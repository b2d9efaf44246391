#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "device/device_backends.hpp"
#include "support/product_tiles.hpp"

/// The kernels of products of experts on the device: their matrix instructions and asynchronous
/// copies are assembly, which the emulator only imitates. All numbers are small multiples of powers
/// of two, so that every sum is exact in any order and type, and results are compared for equality.
namespace moxie::test {
namespace {

using namespace detail::device;

using B = CudaBackend<float>;

constexpr Index tokens = 37;
/// Rows that belong to nobody, experts without rows, with one, with more than a tile.
const std::vector<std::int32_t> offsets = {2, 2, 72, 73, 203, 203, 236};
constexpr int experts = 6;
constexpr Index capacity = 240;

struct Work {
  Index inner, cols, gap;  // `gap`: between the rows of all matrices
  bool gather, scale;
};

std::vector<double> numbers(Index n, std::uint32_t state) {
  std::vector<double> out;
  for (Index i = 0; i < n; ++i) {
    state = state * 1664525U + 1013904223U;
    out.push_back((static_cast<double>(state >> 25U) - 64) / 64);  // 7 bits: exact in bf16
  }
  return out;
}

/// Numbers [rows, cols], and the same on the device, where the gaps between rows hold NaN.
template <class T>
class Numbers {
 public:
  Numbers(B& b, Index rows, Index cols, Index gap, std::uint32_t seed)
      : rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        values_(numbers(rows * cols, seed)),
        memory_(b, laid_out()) {}

  double operator()(Index i, Index j) const {
    return values_[static_cast<std::size_t>(i * cols_ + j)];
  }
  MatrixView<T, DeviceSpace> view() const { return memory_.view(rows_, cols_, stride_); }
  Strided<const T> read() const {
    return Strided<const T>(MatrixView<const T, DeviceSpace>(view()));
  }
  /// What is on the device now, without the gaps.
  std::vector<double> now() const {
    const std::vector<T> all = memory_.to_vector();
    std::vector<double> out;
    for (Index i = 0; i < rows_; ++i)
      for (Index j = 0; j < cols_; ++j) {
        const T value = all[static_cast<std::size_t>(i * stride_ + j)];
        out.push_back(static_cast<double>(static_cast<float>(value)));
      }
    return out;
  }
  const std::vector<double>& before() const { return values_; }

 private:
  std::vector<T> laid_out() const {
    std::vector<T> out(static_cast<std::size_t>(rows_ * stride_),
                       T(std::numeric_limits<float>::quiet_NaN()));
    for (Index i = 0; i < rows_; ++i)
      for (Index j = 0; j < cols_; ++j)
        out[static_cast<std::size_t>(i * stride_ + j)] = T(static_cast<float>((*this)(i, j)));
    return out;
  }

  Index rows_, cols_, stride_;
  std::vector<double> values_;
  Buffer<T, B> memory_;
};

/// Rows of experts: row r is factor(r) x(source(r), :).
template <class T>
class SomeRows {
 public:
  SomeRows(B& b, Index width, Index gap, bool gather, bool scale, std::uint32_t seed)
      : gather_(gather),
        scale_(scale),
        x_(b, gather ? tokens : capacity, width, gap, seed),
        index_(b, indices()),
        factors_(b, factors()) {}

  GatheredRows<T, float> rows() const {
    return {x_.read(), gather_ ? index_.data() : nullptr, scale_ ? factors_.data() : nullptr};
  }
  double operator()(Index r, Index c) const {
    return (scale_ ? factor(r) : 1) * x_(gather_ ? source(r) : r, c);
  }

 private:
  static Index source(Index r) { return r * 11 % tokens; }
  static double factor(Index r) { return r % 3 == 0 ? 0.5 : r % 3 == 1 ? 1 : 2; }
  static std::vector<std::int32_t> indices() {
    std::vector<std::int32_t> out;
    for (Index r = 0; r < capacity; ++r) out.push_back(static_cast<std::int32_t>(source(r)));
    return out;
  }
  static std::vector<float> factors() {
    std::vector<float> out;
    for (Index r = 0; r < capacity; ++r) out.push_back(static_cast<float>(factor(r)));
    return out;
  }

  bool gather_, scale_;
  Numbers<T> x_;
  Buffer<std::int32_t, B> index_;
  Buffer<float, B> factors_;
};

std::size_t differences(const std::vector<double>& got, const std::vector<double>& wanted) {
  REQUIRE(got.size() == wanted.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i) wrong += got[i] != wanted[i] ? 1U : 0U;
  return wrong;
}

template <class Product, Op op>
void check_product(const Work& work) {
  using T = typename Product::Element;
  B b;
  const Buffer<std::int32_t, B> offset(b, offsets);
  const SomeRows<T> x(b, work.inner, work.gap, work.gather, work.scale, 1);
  const Numbers<T> w(b, experts * (op == Op::none ? work.inner : work.cols),
                     op == Op::none ? work.cols : work.inner, work.gap, 2);
  const Numbers<float> out(b, capacity, work.cols, work.gap, 3);
  b.leaf().launch({.blocks = 5,
                   .threads = Product::threads,
                   .shared_bytes = grouped_product_bytes<Product, op>(experts)},
                  grouped_product<Product, op, float, StoreEnd<float, float>>, x.rows(),
                  static_cast<int>(work.inner), offset.data(), experts, w.read(),
                  static_cast<int>(work.cols),
                  StoreEnd<float, float>{{}, Strided<float>(out.view())});

  std::vector<double> wanted = out.before();
  for (Index e = 0; e < experts; ++e)
    for (Index r = offsets[std::size_t(e)]; r < offsets[std::size_t(e) + 1]; ++r)
      for (Index c = 0; c < work.cols; ++c) {
        double sum = 0;
        for (Index k = 0; k < work.inner; ++k)
          sum += x(r, k) * (op == Op::none ? w(e * work.inner + k, c) : w(e * work.cols + c, k));
        wanted[static_cast<std::size_t>(r * work.cols + c)] = sum;
      }
  CHECK(differences(out.now(), wanted) == 0);
}

template <class Product>
void check_weights(const Work& work) {
  using T = typename Product::Element;
  B b;
  const Buffer<std::int32_t, B> offset(b, offsets);
  const bool scale = work.scale && Product::scales;
  const SomeRows<T> x(b, work.inner, work.gap, work.gather, scale, 4);
  const SomeRows<T> dy(b, work.cols, work.gap, !work.gather, scale, 5);
  const Numbers<float> dw(b, experts * work.inner, work.cols, work.gap, 6);
  b.leaf().launch({.blocks = experts * blocks_of(work.inner, Product::rows) *
                             blocks_of(work.cols, Product::cols),
                   .threads = Product::threads,
                   .shared_bytes = grouped_weights_bytes<Product>()},
                  grouped_weights<Product>, x.rows(), dy.rows(), offset.data(),
                  static_cast<int>(work.inner), static_cast<int>(work.cols),
                  Strided<float>(dw.view()));

  std::vector<double> wanted = dw.before();
  for (Index e = 0; e < experts; ++e)
    for (Index k = 0; k < work.inner; ++k)
      for (Index c = 0; c < work.cols; ++c)
        for (Index r = offsets[std::size_t(e)]; r < offsets[std::size_t(e) + 1]; ++r) {
          const Index at = (e * work.inner + k) * work.cols + c;
          wanted[static_cast<std::size_t>(at)] += x(r, k) * dy(r, c);
        }
  CHECK(differences(dw.now(), wanted) == 0);
}

// Rows in copies of 16 bytes, with gaps too, and rows that fit none.
const std::vector<Work> works = {
    {72, 88, 0, false, false}, {136, 152, 8, true, true}, {45, 67, 3, true, true}};

TEST_CASE_TEMPLATE("CudaLeaf runs the kernels of experts' products, exact, tf32 and bf16", P,
                   ExactSmall, ExactLarge, TfSmall, TfLarge, BfSmall, BfLarge) {
  for (const Work& work : works) {
    CAPTURE(work.inner);
    check_product<P, Op::none>(work);
    check_product<P, Op::transpose>(work);
    check_weights<P>(work);
  }
}

TEST_CASE("Experts' products on CudaLeaf take floats as floats unless tf32 is asked for") {
  // 1 + 2^-12 needs 12 bits of mantissa: tf32 rounds it to 1
  const float x = 1 + 1.0F / 4096;
  const Index n = 64;
  const auto product = [&](bool tf32) {
    B b(CudaLeaf(CudaOptions{.tf32 = tf32}));
    const Buffer<float, B> rows(b, n * n, x);
    const Buffer<float, B> w(b, 2 * n * n, 1.0F / static_cast<float>(n));
    const Buffer<float, B> out(b, n * n, 0.0F);
    const Buffer<std::int32_t, B> offset(b, {0, 20, 64});
    b.grouped_gemm({rows.view(n, n), {}, {}, offset.view(), n}, Op::none, w.view(2 * n, n),
                   out.view(n, n));
    return out.to_vector();
  };
  CHECK(product(false) == std::vector<float>(std::size_t(n * n), x));
  CHECK(product(true) == std::vector<float>(std::size_t(n * n), 1.0F));
}

}  // namespace
}  // namespace moxie::test
