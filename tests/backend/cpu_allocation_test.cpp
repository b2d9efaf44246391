#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/reference.hpp"
#include "device/allocations.hpp"
#include "moxie/backend/thread_pool.hpp"

namespace {

struct Touch {
  void operator()(moxie::Index) const {}
  void operator()(moxie::Index, moxie::Index) const {}
};
template <class T>
struct One {
  T operator()(moxie::Index, moxie::Index) const { return T(1); }
};

}  // namespace

TEST_CASE_TEMPLATE("no primitive allocates", T, float, double) {
  using moxie::Index;
  using moxie::Op;
  using B = moxie::CpuBackend<T>;
  moxie::ThreadPool pool(2);
  const B cpu(pool);
  moxie::test::Dense<T> a(300, 300, 0, 1);
  moxie::test::Dense<T> b(300, 300, 0, 2);
  moxie::test::Dense<T> c(300, 300, 0, 3);
  const std::vector<std::int32_t> offset{0, 100, 300};
  std::vector<std::int32_t> index(300, 5);
  std::vector<std::int32_t> values(300, 5);
  std::vector<T> scale(300, T(1));
  std::vector<T> sums(300);
  std::vector<T> memory(4096);
  const moxie::VectorView<std::byte> scratch{reinterpret_cast<std::byte*>(memory.data()),
                                             static_cast<Index>(memory.size() * sizeof(T))};
  const moxie::MatrixView<T> left = a.view();
  const moxie::MatrixView<T> right = b.view();
  const moxie::MatrixView<T> out = c.view();
  const moxie::Rows<B> rows{
      left.columns(0, 150), {index.data(), 300}, {scale.data(), 300}, {offset.data(), 3}, 300};
  const moxie::Rows<B> dy{right, {}, {}, {offset.data(), 3}, 300};

  const int before = moxie::test::allocations();
  for (const Op op_a : {Op::none, Op::transpose}) {
    for (const Op op_b : {Op::none, Op::transpose}) {
      cpu.gemm(op_a, op_b, T(1), left, right, T(1), out);
      cpu.batched_gemm(op_a, op_b, T(1), {left.top(20).columns(0, 20), 15, 6000},
                       {right.top(20).columns(0, 20), 15, 6000}, T(0),
                       {out.top(20).columns(0, 20), 15, 6000});
    }
    cpu.grouped_gemm(rows, op_a,
                     op_a == Op::none ? right : moxie::MatrixView<T>(right.data, 600, 150), out);
  }
  cpu.grouped_gemm_weights(rows, dy, out);
  cpu.for_each(10000, Touch{});
  cpu.for_each(1000, 100, Touch{});
  cpu.column_sums(300, 300, One<T>{}, {sums.data(), 300}, scratch);
  cpu.sort_pairs({index.data(), 300}, {values.data(), 300}, 8, scratch);
  cpu.exclusive_scan({index.data(), 300}, {values.data(), 300}, scratch);
  cpu.fill(moxie::VectorView<T>{sums.data(), 300}, T(0));
  cpu.copy(sums.data(), scale.data(), 300 * sizeof(T));
  CHECK(moxie::test::allocations() == before);
}
