#pragma once

#include <cuda_runtime.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/system/cuda/execution_policy.h>

#include <cstddef>
#include <cstdint>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "moxie/backend/cuda/blas.hpp"
#include "moxie/backend/cuda/error.hpp"
#include "moxie/backend/cuda/memory.hpp"
#include "moxie/backend/cuda/stream.hpp"
#include "moxie/backend/device/bf16_experts.hpp"
#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/portable.hpp"
#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

struct CudaOptions {
  /// Where memory comes from, shared by as many backends as one likes; null: a CudaPool of its own.
  CudaMemoryResource* memory = nullptr;
  /// Products of layers and of experts, of floats, by tensor cores whose factors have 10 bits of
  /// mantissa instead of 23. Those of gates, routers and losses stay exact.
  bool tf32 = false;
  /// Products of experts by factors of 8 bits of mantissa, with twice the rate of tf32.
  Bf16Experts bf16_experts = Bf16Experts::never;
  /// Lets cuBLASLt add the bias, and do Gelu, in products of experts with as many rows each
  /// (PaddedDispatcher), where it can. Of floats and bf16.
  bool fused_epilogues = false;
  /// Waits after everything that is enqueued, so that an error names what caused it. Slow, and no
  /// stream can be captured.
  bool sync_after_launch = false;
};

namespace detail::cuda {

/// One thread an index.
template <class F>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(256) for_each_index(Index n, F f) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) f(i);
}

/// The parts of a block of scratch, each aligned as a leaf's memory is.
class Parts {
 public:
  explicit Parts(std::byte* base) : base_(base) {}
  /// The next `bytes` bytes; null where the base is, to measure only.
  std::byte* take(std::size_t bytes) {
    std::byte* p = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + 255) / 256 * 256;
    return p;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace detail::cuda

/// A GPU: what DeviceBackend asks of CUDA, on one stream. Movable only by construction.
///
/// It belongs to the device that was current when it was made, which must be current whenever it is
/// used, and to one thread at a time. Whatever is called is enqueued on its stream and returns at
/// once, but for `synchronize` and the two copies that name the host; nothing but `allocate` takes
/// memory. So everything else can be captured into a CUDA graph. A stream that is borrowed must
/// outlive the leaf and all its memory.
class CudaLeaf {
 public:
  using Space = DeviceSpace;
  /// cuBLAS picks its kernels by the sizes of a product.
  static constexpr bool batch_invariant = false;

  /// On a stream of its own.
  /// @throws cuda_error if there is no device.
  CudaLeaf() : CudaLeaf(CudaOptions{}) {}
  explicit CudaLeaf(CudaOptions options) : CudaLeaf(CudaStream(), nullptr, options) {}
  /// On a stream of the caller's.
  explicit CudaLeaf(cudaStream_t stream, CudaOptions options = {})
      : CudaLeaf(std::nullopt, stream, options) {}
  CudaLeaf(CudaLeaf&&) = default;
  CudaLeaf& operator=(CudaLeaf&&) = delete;

  cudaStream_t stream() const noexcept { return stream_; }
  const CudaOptions& options() const noexcept { return options_; }
  int multiprocessors() const noexcept { return multiprocessors_; }

  /// Thrust's par_nosync on our stream, but loops are kernels of ours: they compile several times
  /// faster than Thrust's, fit their blocks to the loop, and fail with a cuda_error.
  struct Policy : thrust::cuda_cub::execute_on_stream_nosync_base<Policy> {
    explicit Policy(CudaLeaf& leaf)
        : thrust::cuda_cub::execute_on_stream_nosync_base<Policy>(leaf.stream_), leaf_(&leaf) {}

    /// Found by Thrust before its own.
    template <class F>
    friend thrust::counting_iterator<Index> for_each_n(Policy& policy,
                                                       thrust::counting_iterator<Index> first,
                                                       Index n, F f) {
      policy.loop(n, f);
      return first + n;
    }

   private:
    template <class F>
    void loop(Index n, const F& f) {
      leaf_->loop(n, f);
    }
    CudaLeaf* leaf_;
  };
  Policy policy() { return Policy(*this); }

  void* allocate(std::size_t bytes) { return memory_->allocate(bytes > 0 ? bytes : 1, stream_); }
  void deallocate(void* p, std::size_t bytes) noexcept {
    memory_->deallocate(p, bytes > 0 ? bytes : 1, stream_);
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    enqueue_copy(to, from, bytes, cudaMemcpyDeviceToDevice);
  }
  void copy_from_host(void* to, const void* from, std::size_t bytes) {
    enqueue_copy(to, from, bytes, cudaMemcpyHostToDevice);
    synchronize();
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) {
    enqueue_copy(to, from, bytes, cudaMemcpyDeviceToHost);
    synchronize();
  }
  void synchronize() { MOXIE_CUDA_TRY(cudaStreamSynchronize(stream_)); }
  /// Is the stream being captured into a graph?
  bool capturing() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    MOXIE_CUDA_TRY(cudaStreamIsCapturing(stream_, &status));
    return status != cudaStreamCaptureStatusNone;
  }

  /// See KernelLeaf.
  template <class... P>
  void launch(const Launch& shape, void (*kernel)(P...), std::type_identity_t<P>... arguments) {
    require_limits(shape);
    if (shape.blocks == 0 || shape.blocks_y == 0 || shape.blocks_z == 0) return;
    cudaLaunchConfig_t config{};
    config.gridDim = {static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.blocks_y),
                      static_cast<unsigned>(shape.blocks_z)};
    config.blockDim = {static_cast<unsigned>(shape.threads), 1, 1};
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream_;
    const void* function = reinterpret_cast<const void*>(kernel);
    if (shape.shared_bytes > free_shared_bytes) permit_shared(function);
    require_launch(cudaLaunchKernelEx(&config, kernel, static_cast<P&&>(arguments)...), function);
    if (options_.sync_after_launch) require_launch(cudaStreamSynchronize(stream_), function);
  }

  // The algorithms are templates so that only who uses them compiles CUB's kernels.

  template <class I = std::int32_t>
  std::size_t sort_pairs_bytes(Index n) const {
    return sort<I>(nullptr, nullptr, n, 31, nullptr);
  }
  template <class I>
  void sort_pairs(I* keys, I* values, Index n, int bits, std::byte* scratch) {
    if (n > 1 && bits > 0) sort<I>(keys, values, n, bits, scratch);
    finish("sort_pairs");
  }
  template <class I = std::int32_t>
  std::size_t exclusive_scan_bytes(Index n) const {
    std::size_t bytes = 0;
    MOXIE_CUDA_TRY(cub::DeviceScan::ExclusiveSum(nullptr, bytes, static_cast<const I*>(nullptr),
                                                 static_cast<I*>(nullptr), count(n), stream_));
    return bytes;
  }
  template <class I>
  void exclusive_scan(const I* in, I* out, Index n, std::byte* scratch) {
    if (n == 0) return;
    std::size_t bytes = exclusive_scan_bytes<I>(n);
    MOXIE_CUDA_TRY(cub::DeviceScan::ExclusiveSum(scratch, bytes, in, out, count(n), stream_));
    finish("exclusive_scan");
  }

  template <class T>
  void gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, T alpha, const T* a, Index lda,
                    Index stride_a, const T* b, Index ldb, Index stride_b, T beta, T* c, Index ldc,
                    Index stride_c, Index batch) {
    blas_.gemm_strided(false, op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb, stride_b, beta,
                       c, ldc, stride_c, batch);
    finish("gemm_strided");
  }
  /// The same of factors of bf16. See Bf16Leaf.
  void gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, float alpha, const bf16* a,
                    Index lda, Index stride_a, const bf16* b, Index ldb, Index stride_b, float beta,
                    float* c, Index ldc, Index stride_c, Index batch) {
    blas_.gemm_strided(false, op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb, stride_b, beta,
                       c, ldc, stride_c, batch);
    finish("gemm_strided");
  }
  /// The same in tf32, if `options().tf32` is true. See RoundingLeaf.
  template <class T>
  void rounded_gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, T alpha, const T* a,
                            Index lda, Index stride_a, const T* b, Index ldb, Index stride_b,
                            T beta, T* c, Index ldc, Index stride_c, Index batch) {
    blas_.gemm_strided(options_.tf32, op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb,
                       stride_b, beta, c, ldc, stride_c, batch);
    finish("gemm_strided");
  }
  /// See FusingLeaf.
  template <class F>
  bool fused_gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, const F* a, Index lda,
                          Index stride_a, const F* b, Index ldb, Index stride_b, float* c,
                          Index ldc, Index stride_c, Index batch, const StridedEnd<float>& end) {
    if (!options_.fused_epilogues ||
        !blas_.fused_strided(options_.tf32 && std::is_same_v<F, float>, op_a, op_b, m, n, k, a, lda,
                             stride_a, b, ldb, stride_b, c, ldc, stride_c, batch, end)) {
      return false;
    }
    finish("fused_gemm_strided");
    return true;
  }

 protected:
  detail::cuda::Blas& blas() noexcept { return blas_; }

 private:
  // What a kernel declares itself, 16 KiB at most, counts too: together, 48 KiB need no asking.
  static constexpr std::size_t free_shared_bytes = std::size_t{32} << 10U;
  static constexpr std::size_t most_shared_bytes = std::size_t{163} << 10U;

  CudaLeaf(std::optional<CudaStream> own, cudaStream_t stream, CudaOptions options)
      : options_(options),
        own_stream_(std::move(own)),
        stream_(own_stream_ ? own_stream_->get() : stream),
        own_pool_(options.memory == nullptr ? std::make_unique<CudaPool>() : nullptr),
        memory_(own_pool_ != nullptr ? own_pool_.get() : options.memory),
        multiprocessors_(attribute(cudaDevAttrMultiProcessorCount)),
        device_shared_bytes_(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
        blas_(stream_, detail::cuda::Block(*memory_, stream_,
                                           detail::cuda::Blas::workspace_bytes(
                                               attribute(cudaDevAttrComputeCapabilityMajor)))) {}

  /// As much shared memory as the kernel can have, whatever this launch takes: the permission is the
  /// kernel's, and another thread may be about to launch it with more.
  void permit_shared(const void* function) {
    cudaFuncAttributes own{};
    require_launch(cudaFuncGetAttributes(&own, function), function);
    require_launch(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             device_shared_bytes_ - static_cast<int>(own.sharedSizeBytes)),
        function);
  }
  static int attribute(cudaDeviceAttr name) {
    int device = 0;
    int value = 0;
    MOXIE_CUDA_TRY(cudaGetDevice(&device));
    MOXIE_CUDA_TRY(cudaDeviceGetAttribute(&value, name, device));
    return value;
  }

  void enqueue_copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return;
    MOXIE_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, kind, stream_));
    finish("copy");
  }

  /// Short loops of long functors (a token, a group) take small blocks, which more multiprocessors
  /// can share.
  template <class F>
  void loop(Index n, const F& f) {
    int threads = 256;
    while (threads > 32 && n < Index{threads} * multiprocessors_) threads /= 2;
    launch({.blocks = detail::device::blocks_of(n, threads), .threads = threads},
           detail::cuda::for_each_index<F>, n, f);
  }

  /// Sorts, or says how much scratch that takes where `scratch` is null. CUB needs the most for the most bits.
  template <class I>
  std::size_t sort(I* keys, I* values, Index n, int bits, std::byte* scratch) const {
    detail::cuda::Parts parts(scratch);
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(I);
    cub::DoubleBuffer<I> key_pair(keys, reinterpret_cast<I*>(parts.take(bytes)));
    cub::DoubleBuffer<I> value_pair(values, reinterpret_cast<I*>(parts.take(bytes)));
    std::size_t own = 0;
    MOXIE_CUDA_TRY(cub::DeviceRadixSort::SortPairs(nullptr, own, key_pair, value_pair, count(n), 0,
                                                   bits, stream_));
    std::byte* temporary = parts.take(own);
    if (scratch == nullptr) return parts.used();
    MOXIE_CUDA_TRY(cub::DeviceRadixSort::SortPairs(temporary, own, key_pair, value_pair, count(n),
                                                   0, bits, stream_));
    if (key_pair.Current() != keys) {
      MOXIE_CUDA_TRY(
          cudaMemcpyAsync(keys, key_pair.Current(), bytes, cudaMemcpyDeviceToDevice, stream_));
      MOXIE_CUDA_TRY(
          cudaMemcpyAsync(values, value_pair.Current(), bytes, cudaMemcpyDeviceToDevice, stream_));
    }
    return parts.used();
  }

  /// Ids of rows are 32-bit numbers, and CUB is faster with those.
  static std::int32_t count(Index n) {
    if (n > Index{0x7fffffff}) {
      throw_shape("moxie::CudaLeaf: ", n, " elements to sort or to scan, expected below 2^31");
    }
    return static_cast<std::int32_t>(n);
  }

  static void require_limits(const Launch& shape) {
    const auto within = [](Index blocks, Index end) { return blocks >= 0 && blocks < end; };
    if (within(shape.blocks, Index{1} << 31U) && within(shape.blocks_y, 65536) &&
        within(shape.blocks_z, 65536) && shape.threads >= 1 && shape.threads <= 1024 &&
        shape.shared_bytes <= most_shared_bytes) {
      return;
    }
    throw_config("moxie::CudaLeaf::launch: ", shape.blocks, " x ", shape.blocks_y, " x ",
                 shape.blocks_z, " blocks of ", shape.threads, " threads with ", shape.shared_bytes,
                 " bytes of shared memory, expected below 2^31 x 65536 x 65536 blocks of 1 to 1024 "
                 "threads with at most ",
                 most_shared_bytes, " bytes");
  }

  /// Names the kernel.
  static void require_launch(cudaError_t status, const void* function) {
    if (status == cudaSuccess) return;
    const char* name = nullptr;
    if (cudaFuncGetName(&name, function) != cudaSuccess || name == nullptr) name = "a kernel";
    detail::cuda::check(status, {name, __FILE__, __LINE__});
  }

  void finish(const char* operation) {
    if (options_.sync_after_launch) {
      detail::cuda::check(cudaStreamSynchronize(stream_), {operation, __FILE__, __LINE__});
    }
  }

  CudaOptions options_;
  std::optional<CudaStream> own_stream_;
  cudaStream_t stream_;
  std::unique_ptr<CudaPool> own_pool_;
  CudaMemoryResource* memory_;
  int multiprocessors_;
  int device_shared_bytes_;  // the most that a block can have
  detail::cuda::Blas blas_;
};

}  // namespace moxie
