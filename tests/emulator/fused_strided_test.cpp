// Strided products of experts whose end the leaf's library does.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "device/reference.hpp"
#include "emulator/bf16_leaf.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/dispatch/einsum.hpp"
#include "moxie/dispatch/padded.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/law_report.hpp"

namespace moxie::test::fused_strided_test {
namespace {

/// As CudaLeaf with CudaOptions::fused_epilogues.
class FusedLeaf : public Bf16TestLeaf {
 public:
  using Bf16TestLeaf::Bf16TestLeaf;
  bool offers = true;
  int fused = 0;  ///< so far

  template <class F>
  bool fused_gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, const F* a, Index lda,
                          Index stride_a, const F* b, Index ldb, Index stride_b, float* c,
                          Index ldc, Index stride_c, Index batch, const StridedEnd<float>& end) {
    if (!offers) return false;
    ++fused;
    for (Index q = 0; q < batch; ++q)
      for (Index j = 0; j < n; ++j)
        for (Index i = 0; i < m; ++i) {
          float sum = end.bias[q * end.bias_stride + i];
          for (Index p = 0; p < k; ++p)
            sum += static_cast<float>(
                       a[q * stride_a + (op_a == Op::none ? i + p * lda : p + i * lda)]) *
                   static_cast<float>(
                       b[q * stride_b + (op_b == Op::none ? p + j * ldb : j + p * ldb)]);
          if (end.pre != nullptr) end.pre[q * end.pre_stride + j * end.pre_leading + i] = sum;
          c[q * stride_c + j * ldc + i] = end.gelu ? Gelu::value(sum) : sum;
        }
    return true;
  }
};
using B = DeviceBackend<float, FusedLeaf>;
static_assert(FusingLeaf<FusedLeaf>);

constexpr Index tokens = 20, width = 12;

/// Result, gradients and how many products were fused.
template <class A>
std::vector<float> pass(bool offers, Bf16Experts bf16, Gradients gradients, int& fused) {
  B b(FusedLeaf{bf16});
  b.leaf().offers = offers;
  const MoeLayer layer{b, MoeShape{.width = width, .experts = 4, .seed = 2},
                       WithDispatcher{PaddedDispatcher{}, TopKRouter{.k = 2}},
                       CapacityFactor{.factor = 1.25}, FeedForward<A>{.hidden = 18}};
  const std::vector<float> values = numbers<float>(layer.parameters().size(), 9);  // biases too
  b.copy_from_host(layer.parameters().edit().data, values.data(), values.size() * sizeof(float));
  auto tape = layer.make_tape(tokens, gradients);
  const Buffer<float, B> x(b, numbers<float>(tokens * width, 1));
  const Buffer<float, B> dy(b, numbers<float>(tokens * width, 2));
  const Buffer<float, B> y(b, tokens * width, 0.0F);
  const Buffer<float, B> dx(b, tokens * width, 0.0F);
  layer.parameters().zero_gradients();
  layer.forward(ConstMatrix<B>(x.view(tokens, width)), y.view(tokens, width), tape, Pass<B>{});
  if (gradients == Gradients::all)
    layer.backward(ConstMatrix<B>(dy.view(tokens, width)), dx.view(tokens, width), tape);
  fused = b.leaf().fused;
  std::vector<float> all = y.to_vector();
  for (const auto& more :
       {dx.to_vector(), testing::detail::to_host(b, layer.parameters().gradients())})
    all.insert(all.end(), more.begin(), more.end());
  return all;
}
template <class A>
void check(int expected_fused) {
  for (const Bf16Experts bf16 : {Bf16Experts::never, Bf16Experts::always})
    for (const Gradients gradients : {Gradients::none, Gradients::all}) {
      CAPTURE(static_cast<int>(bf16));
      CAPTURE(static_cast<int>(gradients));
      int fused = 0;
      const auto wanted = pass<A>(false, bf16, gradients, fused);
      CHECK(fused == 0);
      const auto got = pass<A>(true, bf16, gradients, fused);
      CHECK(fused == expected_fused);
      // a last bit of an activation may round to another bf16
      CHECK(largest_error(got, in_double(wanted)) <=
            (bf16 == Bf16Experts::never ? rounding<float> : 2e-2));
    }
}

TEST_CASE("Bias and Gelu are done by the library's strided product, other activations beside it") {
  check<Gelu>(2);     // of both layers of the experts
  check<GeluErf>(1);  // which the library has not: of the second alone
}

}  // namespace
}  // namespace moxie::test::fused_strided_test
