#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "moxie/backend/cuda/blas_lt.hpp"
#include "moxie/backend/cuda/error.hpp"
#include "moxie/backend/cuda/memory.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/core/bf16.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail::cuda {

/// How cuBLAS stores numbers of type T, and multiplies matrices to results of it. A further storage
/// type is a further specialization.
template <class T>
struct BlasType;
template <>
struct BlasType<bf16> {
  static constexpr cudaDataType data = CUDA_R_16BF;
};
template <>
struct BlasType<float> {
  static constexpr cudaDataType data = CUDA_R_32F;
  static constexpr cublasComputeType_t compute(bool tf32) {
    return tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  }
};
template <>
struct BlasType<double> {
  static constexpr cudaDataType data = CUDA_R_64F;
  static constexpr cublasComputeType_t compute(bool /*tf32*/) { return CUBLAS_COMPUTE_64F; }
};

/// A cuBLAS handle that is bound to a stream and to memory for its work. Move-only.
///
/// With a workspace of ours cuBLAS takes no memory in a call, so that a stream can be captured into
/// a graph, and the same call gives the same bits.
class Blas {
 public:
  /// What cuBLAS wants, by its manual: 32 MiB from compute capability 9.0 on, 4 MiB before.
  static std::size_t workspace_bytes(int major) {
    return static_cast<std::size_t>(major >= 9 ? 32 : 4) << 20U;
  }

  Blas(cudaStream_t stream, Block workspace) : workspace_(std::move(workspace)), stream_(stream) {
    MOXIE_CUDA_TRY(cublasCreate(&handle_));
    try {
      MOXIE_CUDA_TRY(cublasSetStream(handle_, stream));
      // after the stream: setting that takes the workspace away again
      MOXIE_CUDA_TRY(cublasSetWorkspace(handle_, workspace_.data(), workspace_.bytes()));
    } catch (...) {
      cublasDestroy(handle_);
      throw;
    }
  }
  Blas(Blas&& o) noexcept
      : workspace_(std::move(o.workspace_)),
        stream_(o.stream_),
        handle_(std::exchange(o.handle_, nullptr)),
        lt_(std::move(o.lt_)) {}
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;
  ~Blas() {
    if (handle_ != nullptr) cublasDestroy(handle_);
  }

  /// gemm_strided of Leaf, of factors of type F.
  template <class F, class T>
  void gemm_strided(bool tf32, Op op_a, Op op_b, Index m, Index n, Index k, T alpha, const F* a,
                    Index lda, Index stride_a, const F* b, Index ldb, Index stride_b, T beta, T* c,
                    Index ldc, Index stride_c, Index batch) {
    if (m == 0 || n == 0 || batch == 0) return;
    using Type = BlasType<T>;
    constexpr cudaDataType factor = BlasType<F>::data;
    if (batch == 1) {  // has more kernels to choose from
      MOXIE_CUDA_TRY(cublasGemmEx_64(handle_, blas_op(op_a), blas_op(op_b), m, n, k, &alpha, a,
                                     factor, lda, b, factor, ldb, &beta, c, Type::data, ldc,
                                     Type::compute(tf32), CUBLAS_GEMM_DEFAULT));
    } else {
      MOXIE_CUDA_TRY(cublasGemmStridedBatchedEx_64(
          handle_, blas_op(op_a), blas_op(op_b), m, n, k, &alpha, a, factor, lda, stride_a, b,
          factor, ldb, stride_b, &beta, c, Type::data, ldc, stride_c, batch, Type::compute(tf32),
          CUBLAS_GEMM_DEFAULT));
    }
  }

  /// fused_gemm_strided of FusingLeaf, by cuBLASLt. How it does a product is asked once for all sizes.
  template <class F>
  bool fused_strided(bool tf32, Op op_a, Op op_b, Index m, Index n, Index k, const F* a, Index lda,
                     Index stride_a, const F* b, Index ldb, Index stride_b, float* c, Index ldc,
                     Index stride_c, Index batch, const StridedEnd<float>& end) {
    const LtSizes sizes{op_a,
                        op_b,
                        m,
                        n,
                        k,
                        lda,
                        stride_a,
                        ldb,
                        stride_b,
                        ldc,
                        stride_c,
                        batch,
                        end.bias_stride,
                        end.gelu,
                        end.pre != nullptr,
                        end.pre_leading,
                        end.pre_stride,
                        BlasType<F>::data,
                        BlasType<float>::compute(tf32)};
    return lt_.run(reinterpret_cast<cublasLtHandle_t>(handle_), stream_, workspace_.data(),
                   workspace_.bytes(), sizes, a, b, c, end.bias, end.pre);
  }

  /// C_g = op_a(A_g) op_b(B_g) + beta C_g for groups g of sizes m_g, n_g, k_g >= 1, stored by
  /// columns. The sizes lie on the host, the addresses on the device.
  template <class T>
  void gemm_grouped(Op op_a, Op op_b, const std::vector<std::int64_t>& m,
                    const std::vector<std::int64_t>& n, const std::vector<std::int64_t>& k,
                    const T* const* a, Index lda, const T* const* b, Index ldb, T beta, T* const* c,
                    Index ldc) {
    const std::size_t groups = m.size();
    const std::vector<cublasOperation_t> ops_a(groups, blas_op(op_a)), ops_b(groups, blas_op(op_b));
    const std::vector<std::int64_t> ldas(groups, lda), ldbs(groups, ldb), ldcs(groups, ldc);
    const std::vector<std::int64_t> ones(groups, 1);  // products in each group
    const std::vector<T> alphas(groups, T(1)), betas(groups, beta);
    const auto with = [&](auto* gemm) {
      MOXIE_CUDA_TRY(gemm(handle_, ops_a.data(), ops_b.data(), m.data(), n.data(), k.data(),
                          alphas.data(), a, ldas.data(), b, ldbs.data(), betas.data(), c,
                          ldcs.data(), static_cast<std::int64_t>(groups), ones.data()));
    };
    if constexpr (std::same_as<T, float>) {
      with(&cublasSgemmGroupedBatched_64);
    } else {
      with(&cublasDgemmGroupedBatched_64);
    }
  }

 private:
  Block workspace_;
  cudaStream_t stream_;
  cublasHandle_t handle_ = nullptr;
  LtProducts lt_;
};

}  // namespace moxie::detail::cuda
