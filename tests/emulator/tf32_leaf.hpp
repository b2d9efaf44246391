#pragma once

#include <doctest/doctest.h>

#include "emulator/emulated.hpp"
#include "moxie/backend/device/kernels/mma.hpp"

namespace moxie::test {

/// As CudaLeaf with CudaOptions::tf32: products of layers and of experts by factors of 10 bits of
/// mantissa, where it is asked to.
class Tf32Leaf : public EmulatedLeaf {
 public:
  struct Options {
    bool tf32 = true;
  };

  Tf32Leaf() = default;
  explicit Tf32Leaf(const Options& options) : options_(options) {}
  const Options& options() const { return options_; }

  void rounded_gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, float alpha,
                            const float* a, Index lda, Index stride_a, const float* b, Index ldb,
                            Index stride_b, float beta, float* c, Index ldc, Index stride_c,
                            Index batch) {
    for (Index q = 0; q < batch; ++q)
      for (Index j = 0; j < n; ++j)
        for (Index i = 0; i < m; ++i) {
          float sum = 0;
          for (Index p = 0; p < k; ++p)
            sum += factor(a[q * stride_a + (op_a == Op::none ? i + p * lda : p + i * lda)]) *
                   factor(b[q * stride_b + (op_b == Op::none ? p + j * ldb : j + p * ldb)]);
          float& to = c[q * stride_c + j * ldc + i];
          to = beta == 0 ? alpha * sum : alpha * sum + beta * to;
        }
  }

 private:
  float factor(float v) const {
    return options_.tf32 ? __builtin_bit_cast(float, detail::device::to_tf32(v)) : v;
  }

  Options options_;
};
using Tf32Backend = DeviceBackend<float, Tf32Leaf>;

static_assert(RoundingLeaf<Tf32Leaf, float>);

}  // namespace moxie::test

TYPE_TO_STRING_AS("Tf32Backend", moxie::test::Tf32Backend);
