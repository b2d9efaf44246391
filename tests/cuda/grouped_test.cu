// Our kernels of experts' products against cuBLAS's grouped products.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device/device_backends.hpp"
#include "device/reference.hpp"
#include "moxie/backend/cuda/grouped.hpp"

namespace moxie::test {
namespace {

/// Experts without rows, with one, with more than a tile.
const std::vector<std::int32_t> offsets = {0, 0, 70, 71, 201, 201, 240};
constexpr Index experts = 6, rows = 240, tokens = 50;

/// x W, dy W^T and x^T dy of rows that are gathered and scaled, or lie as they are read.
template <class B>
std::vector<std::vector<typename B::Scalar>> products(Index in, Index out, bool gathered) {
  using T = typename B::Scalar;
  B b;
  std::vector<std::int32_t> token;
  for (Index r = 0; r < rows; ++r) token.push_back(static_cast<std::int32_t>(r * 7 % tokens));
  const Index held = gathered ? tokens : rows;
  const Buffer<T, B> x(b, numbers<T>(held * in, 1));
  const Buffer<T, B> dy(b, numbers<T>(rows * out, 2));
  const Buffer<T, B> w(b, numbers<T>(experts * in * out, 3));
  const Buffer<T, B> scale(b, numbers<T>(rows, 4));
  const Buffer<std::int32_t, B> index(b, token);
  const Buffer<std::int32_t, B> offset(b, offsets);
  const Buffer<T, B> y(b, rows * out, T(5));
  const Buffer<T, B> dx(b, rows * in, T(5));
  const Buffer<T, B> dw(b, numbers<T>(experts * in * out, 6));
  Rows<B> x_rows{x.view(held, in), {}, {}, offset.view(), rows};
  if (gathered) {
    x_rows.index = index.view();
    x_rows.scale = scale.view();
  }
  const Rows<B> dy_rows{dy.view(rows, out), {}, {}, offset.view(), rows};
  b.grouped_gemm(x_rows, Op::none, w.view(experts * in, out), y.view(rows, out));
  b.grouped_gemm(dy_rows, Op::transpose, w.view(experts * in, out), dx.view(rows, in));
  b.grouped_gemm_weights(x_rows, dy_rows, dw.view(experts * in, out));
  return {y.to_vector(), dx.to_vector(), dw.to_vector()};
}

TEST_CASE_TEMPLATE("Our products of experts agree with cuBLAS's grouped ones", T, float, double) {
  for (const bool gathered : {false, true}) {
    const auto own = products<CudaBackend<T>>(130, 72, gathered);
    const auto grouped = products<CudaGroupedBackend<T>>(130, 72, gathered);
    for (std::size_t i = 0; i < own.size(); ++i) {
      CAPTURE(i);
      CHECK(largest_error(own[i], in_double(grouped[i])) <= 10 * rounding<T>);
    }
  }
}

}  // namespace
}  // namespace moxie::test
