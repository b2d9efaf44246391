#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moxie/backend/cuda/error.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail::cuda {

inline cublasOperation_t blas_op(Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; }

/// All about a product with an end but its addresses.
struct LtSizes {
  Op op_a, op_b;
  Index m, n, k, lda, stride_a, ldb, stride_b, ldc, stride_c, batch, bias_stride;
  bool gelu, keeps_pre;
  Index pre_leading, pre_stride;
  cudaDataType factor;
  cublasComputeType_t compute;
  std::uintptr_t aligned = 0;  ///< to how many bytes bias and pre are: the heuristic looks at them

  friend bool operator==(const LtSizes&, const LtSizes&) = default;
};

/// Strided products of cuBLASLt with bias, or bias and GELU (the tanh form, as its manual says), to
/// floats. It may offer none for some sizes.
class LtProducts {
 public:
  /// C = epilogue(op(A) op(B) + bias). False where it is not offered: nothing was enqueued.
  bool run(cublasLtHandle_t handle, cudaStream_t stream, void* workspace, std::size_t bytes,
           LtSizes s, const void* a, const void* b, float* c, const float* bias, float* pre) {
    if (s.m < 1 || s.n < 1 || s.k < 1 || s.batch < 1 || s.bias_stride % 4 != 0) return false;
    if (s.keeps_pre && (s.pre_leading % 8 != 0 || s.pre_stride % 8 != 0)) return false;
    for (const void* p : {a, b, static_cast<const void*>(c), static_cast<const void*>(bias),
                          static_cast<const void*>(pre)}) {
      if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0) return false;
    }
    s.aligned = alignment_of(bias, pre);
    cublasLtMatmulDescOpaque_t product;
    MOXIE_CUDA_TRY(cublasLtMatmulDescInit(&product, s.compute, CUDA_R_32F));
    set(product, CUBLASLT_MATMUL_DESC_TRANSA, blas_op(s.op_a));
    set(product, CUBLASLT_MATMUL_DESC_TRANSB, blas_op(s.op_b));
    set(product, CUBLASLT_MATMUL_DESC_EPILOGUE,
        !s.gelu       ? CUBLASLT_EPILOGUE_BIAS
        : s.keeps_pre ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS
                      : CUBLASLT_EPILOGUE_GELU_BIAS);
    set(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    set(product, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, std::int64_t{s.bias_stride});
    if (s.keeps_pre) {
      set(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, pre);
      set(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, std::int64_t{s.pre_leading});
      set(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, std::int64_t{s.pre_stride});
    }
    const bool plain_a = s.op_a == Op::none;
    const bool plain_b = s.op_b == Op::none;
    cublasLtMatrixLayoutOpaque_t a_layout, b_layout, c_layout;
    lay_out(a_layout, s.factor, plain_a ? s.m : s.k, plain_a ? s.k : s.m, s.lda, s.stride_a,
            s.batch);
    lay_out(b_layout, s.factor, plain_b ? s.k : s.n, plain_b ? s.n : s.k, s.ldb, s.stride_b,
            s.batch);
    lay_out(c_layout, CUDA_R_32F, s.m, s.n, s.ldc, s.stride_c, s.batch);
    const Way& way = way_of(handle, s, product, a_layout, b_layout, c_layout, bytes);
    if (!way.offered) return false;
    const float one = 1;
    const float zero = 0;
    MOXIE_CUDA_TRY(cublasLtMatmul(handle, &product, &one, a, &a_layout, b, &b_layout, &zero, c,
                                  &c_layout, c, &c_layout, &way.algorithm, workspace, bytes,
                                  stream));
    return true;
  }

 private:
  static constexpr std::uint32_t alignment = 16;

  struct Way {
    LtSizes sizes;
    bool offered;
    cublasLtMatmulAlgo_t algorithm;
  };

  static constexpr std::size_t most_ways = 64;  // passes of ever new sizes must not pile them up

  /// The power of two that both addresses are multiples of, 256 at most; null is a multiple of all.
  static std::uintptr_t alignment_of(const void* a, const void* b) {
    const auto bits =
        reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b) | 256U;
    return bits & (~bits + 1U);
  }
  template <class T>
  static void set(cublasLtMatmulDescOpaque_t& product, cublasLtMatmulDescAttributes_t name,
                  const T& value) {
    MOXIE_CUDA_TRY(cublasLtMatmulDescSetAttribute(&product, name, &value, sizeof(value)));
  }
  static void lay_out(cublasLtMatrixLayoutOpaque_t& layout, cudaDataType type, Index rows,
                      Index cols, Index leading, Index stride, Index batch) {
    const auto unsigned_of = [](Index i) { return static_cast<std::uint64_t>(i); };
    MOXIE_CUDA_TRY(cublasLtMatrixLayoutInit(&layout, type, unsigned_of(rows), unsigned_of(cols),
                                            std::int64_t{leading}));
    const auto count = static_cast<std::int32_t>(batch);
    const std::int64_t step = stride;
    MOXIE_CUDA_TRY(cublasLtMatrixLayoutSetAttribute(&layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                    &count, sizeof(count)));
    MOXIE_CUDA_TRY(cublasLtMatrixLayoutSetAttribute(
        &layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof(step)));
  }
  static void prefer(cublasLtMatmulPreferenceOpaque_t& preference,
                     cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
    MOXIE_CUDA_TRY(cublasLtMatmulPreferenceSetAttribute(&preference, name, &value, sizeof(value)));
  }
  /// The library's first choice, which is the same every time.
  const Way& way_of(cublasLtHandle_t handle, const LtSizes& s, cublasLtMatmulDescOpaque_t& product,
                    cublasLtMatrixLayoutOpaque_t& a, cublasLtMatrixLayoutOpaque_t& b,
                    cublasLtMatrixLayoutOpaque_t& c, std::size_t workspace_bytes) {
    for (const Way& way : ways_)
      if (way.sizes == s) return way;
    cublasLtMatmulPreferenceOpaque_t preference;
    MOXIE_CUDA_TRY(cublasLtMatmulPreferenceInit(&preference));
    prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
    for (const auto name :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(preference, name, alignment);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, &product, &a, &b, &c, &c,
                                                                 &preference, 1, &result, &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) MOXIE_CUDA_TRY(status);
    const bool offered =
        status == CUBLAS_STATUS_SUCCESS && found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (ways_.size() == most_ways) ways_.clear();
    ways_.push_back({s, offered, result.algo});
    return ways_.back();
  }

  std::vector<Way> ways_;
};

}  // namespace moxie::detail::cuda
