#include <doctest/doctest.h>

#if !defined(MOXIE_TEST_THRUST)
#include "support/skip.hpp"

TEST_CASE("ThrustHostBackend allocates nothing in a primitive") {
  MOXIE_SKIP("built without Thrust's headers");
}
#else

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/backend/thrust_host.hpp"

namespace moxie::test {
namespace {

static_assert(std::is_same_v<ThrustHostBackend<float>::Space, HostSpace>);
static_assert(Leaf<ThrustHostLeaf, float> && Leaf<ThrustHostLeaf, double>);
static_assert(!GroupedLeaf<ThrustHostLeaf, ThrustHostBackend<double> >);

struct Zero {
  MOXIE_HD void operator()(Index) const {}
  MOXIE_HD void operator()(Index, Index) const {}
};
struct One {
  MOXIE_HD double operator()(Index, Index) const { return 1; }
};

TEST_CASE("ThrustHostBackend allocates nothing in a primitive") {
  ThrustHostBackend<double> backend;
  using B = ThrustHostBackend<double>;
  const Index n = 600;  // more than one chunk of column_sums
  std::vector<double> x(n * 4, 1.0), y(n * 4, 0.0), w(4 * 4, 1.0);
  std::vector<std::int32_t> keys(n), values(n), offset = {0, 200, 500};
  for (Index i = 0; i < n; ++i) keys[std::size_t(i)] = static_cast<std::int32_t>(i * 37 % 1000);
  std::vector<double> scratch(n * 8);
  const Scratch<B> bytes(reinterpret_cast<std::byte*>(scratch.data()), n * 64);
  const Matrix<B> a(x.data(), n, 4);
  const Matrix<B> c(y.data(), n, 4);
  const Matrix<B> b(w.data(), 4, 4);
  Rows<B> rows{};
  rows.x = a;
  rows.offset = {offset.data(), 3};
  rows.rows = n;
  const IntVector<B> key_view(keys.data(), n);
  const IntVector<B> value_view(values.data(), n);

  const int before = allocations();
  backend.for_each(n, Zero{});
  backend.for_each(n, n, Zero{});
  backend.fill(Vector<B>(y.data(), n), 0);
  backend.copy(y.data(), x.data(), n * sizeof(double));
  backend.copy_from_host(y.data(), x.data(), n * sizeof(double));
  backend.copy_to_host(y.data(), x.data(), n * sizeof(double));
  backend.column_sums(n, 4, One{}, {y.data(), 4}, bytes);
  backend.gemm(Op::none, Op::none, 1, a, b, 0, c);
  backend.batched_gemm(Op::none, Op::none, 1, {a.top(4), 8, 16}, {b, 8, 0}, 0, {c.top(4), 8, 16});
  backend.grouped_gemm(rows, Op::none, ConstMatrix<B>(x.data(), 8, 4), c);
  backend.grouped_gemm_weights(rows, rows, Matrix<B>(y.data(), 8, 4));
  backend.sort_pairs(key_view, value_view, 10, bytes);
  backend.exclusive_scan(key_view, value_view, bytes);
  backend.synchronize();
  const int after = allocations();
  CHECK(after - before == 0);

  backend.deallocate(backend.allocate(100), 100);
  CHECK(allocations() - after == 1);  // the count sees what the backend does
}

TEST_CASE("ThrustHostLeaf::sort_pairs looks at the low bits only") {
  std::vector<std::int32_t> keys = {7, 4, 9, 6, 1};
  std::vector<std::int32_t> values = {0, 1, 2, 3, 4};
  ThrustHostLeaf leaf;
  std::vector<std::int32_t> scratch(leaf.sort_pairs_bytes(5) / sizeof(std::int32_t));
  leaf.sort_pairs(keys.data(), values.data(), 5, 2, reinterpret_cast<std::byte*>(scratch.data()));
  CHECK(keys == std::vector<std::int32_t>{4, 9, 1, 6, 7});
  CHECK(values == std::vector<std::int32_t>{1, 2, 4, 3, 0});
}

TEST_CASE("ThrustHostLeaf::gemm_strided refuses the leading dimensions that BLAS refuses") {
  ThrustHostLeaf leaf;
  std::vector<double> x(64, 1.0);
  const auto call = [&](Op op_a, Op op_b, Index lda, Index ldb, Index ldc) {
    leaf.gemm_strided(op_a, op_b, 3, 4, 5, 1.0, x.data(), lda, 0, x.data(), ldb, 0, 0.0, x.data(),
                      ldc, 0, 0);
  };
  CHECK_NOTHROW(call(Op::none, Op::none, 3, 5, 3));
  CHECK_NOTHROW(call(Op::transpose, Op::transpose, 5, 4, 3));
  CHECK_THROWS_WITH_AS(
      call(Op::none, Op::none, 2, 5, 3),
      "moxie::ThrustHostLeaf::gemm_strided: lda is 2, expected at least 3 (the rows "
      "of the matrix as stored)",
      shape_error);
  CHECK_THROWS_AS(call(Op::transpose, Op::none, 4, 5, 3), shape_error);
  CHECK_THROWS_AS(call(Op::none, Op::none, 3, 4, 3), shape_error);
  CHECK_THROWS_AS(call(Op::none, Op::transpose, 3, 3, 3), shape_error);
  CHECK_THROWS_AS(call(Op::none, Op::none, 3, 5, 2), shape_error);
}

/// A leaf with grouped products of its own, which here only count.
struct GroupedCounter : ThrustHostLeaf {
  int products = 0;
  int weights = 0;
  template <class B>
  void grouped_gemm(const Rows<B>&, Op, ConstMatrix<B>, Matrix<B>) {
    ++products;
  }
  template <class B>
  void grouped_gemm_weights(const Rows<B>&, const Rows<B>&, Matrix<B>) {
    ++weights;
  }
};
static_assert(GroupedLeaf<GroupedCounter, DeviceBackend<double, GroupedCounter> >);

TEST_CASE("DeviceBackend uses the grouped products of its leaf where it has them") {
  using B = DeviceBackend<double, GroupedCounter>;
  B backend{GroupedCounter{}};
  const std::int32_t nobody = 0;
  Rows<B> rows{};
  rows.offset = {&nobody, 1};
  backend.grouped_gemm(rows, Op::none, {}, {});
  CHECK(backend.leaf().products == 1);
  CHECK(backend.leaf().weights == 0);
  backend.grouped_gemm_weights(rows, rows, {});
  CHECK(backend.leaf().weights == 1);
}

}  // namespace
}  // namespace moxie::test

#endif
