#pragma once

#include <doctest/doctest.h>

#include "emulator/emulated.hpp"
#include "moxie/backend/device/bf16_experts.hpp"

namespace moxie::test {

/// As CudaLeaf with CudaOptions::bf16_experts.
class Bf16TestLeaf : public EmulatedLeaf {
 public:
  struct Options {
    Bf16Experts bf16_experts = Bf16Experts::always;
  };

  Bf16TestLeaf() = default;
  explicit Bf16TestLeaf(Bf16Experts when) : options_{when} {}
  const Options& options() const { return options_; }
  bool capturing() const { return capture; }
  bool capture = false;
  int strided = 0;  ///< strided products of bf16 so far

  using ThrustHostLeaf::gemm_strided;
  void gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, float alpha, const bf16* a,
                    Index lda, Index stride_a, const bf16* b, Index ldb, Index stride_b, float beta,
                    float* c, Index ldc, Index stride_c, Index batch) {
    ++strided;
    for (Index q = 0; q < batch; ++q)
      for (Index j = 0; j < n; ++j)
        for (Index i = 0; i < m; ++i) {
          float sum = 0;
          for (Index p = 0; p < k; ++p)
            sum += static_cast<float>(
                       a[q * stride_a + (op_a == Op::none ? i + p * lda : p + i * lda)]) *
                   static_cast<float>(
                       b[q * stride_b + (op_b == Op::none ? p + j * ldb : j + p * ldb)]);
          float& to = c[q * stride_c + j * ldc + i];
          to = beta == 0 ? alpha * sum : alpha * sum + beta * to;
        }
  }

 private:
  Options options_;
};
using Bf16Backend = DeviceBackend<float, Bf16TestLeaf>;

static_assert(Bf16Leaf<Bf16TestLeaf>);

}  // namespace moxie::test
