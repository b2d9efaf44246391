#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "moxie/backend/cuda/error.hpp"

namespace moxie {

/// Where a CUDA backend takes its memory from: CudaPool, or an allocator of your own.
///
/// Called when memory of a model or a tape is made, never by a pass. It must outlive its backends.
class CudaMemoryResource {
 public:
  CudaMemoryResource() = default;
  CudaMemoryResource(const CudaMemoryResource&) = delete;
  CudaMemoryResource& operator=(const CudaMemoryResource&) = delete;
  virtual ~CudaMemoryResource() = default;

  /// At least `bytes` > 0 bytes of the device, aligned to 256, for work that is enqueued on `stream`
  /// from now on. Throws where there is no more; never null.
  virtual void* allocate(std::size_t bytes, cudaStream_t stream) = 0;
  /// Gives back what `allocate` gave; work that was enqueued on `stream` before may still use it.
  virtual void deallocate(void* p, std::size_t bytes, cudaStream_t stream) noexcept = 0;
};

/// A pool of CUDA's stream-ordered allocator on the current device, which keeps what is given back
/// for the next allocation.
class CudaPool final : public CudaMemoryResource {
 public:
  /// The pool gives memory beyond `keep_bytes` back to the device when a stream is synchronised.
  /// @throws cuda_error if there is no device, or none with pools.
  explicit CudaPool(std::uint64_t keep_bytes = ~std::uint64_t{0}) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    MOXIE_CUDA_TRY(cudaGetDevice(&properties.location.id));
    MOXIE_CUDA_TRY(cudaMemPoolCreate(&pool_, &properties));
    const cudaError_t status =
        cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_bytes);
    if (status != cudaSuccess) cudaMemPoolDestroy(pool_);
    MOXIE_CUDA_TRY(status);
  }
  /// What is still allocated lives on until it is given back.
  ~CudaPool() override { cudaMemPoolDestroy(pool_); }

  void* allocate(std::size_t bytes, cudaStream_t stream) override {
    void* p = nullptr;
    MOXIE_CUDA_TRY(cudaMallocFromPoolAsync(&p, bytes, pool_, stream));
    return p;
  }
  void deallocate(void* p, std::size_t /*bytes*/, cudaStream_t stream) noexcept override {
    // Nobody can be told of a failure here, and the next launch is not to be blamed for it.
    if (cudaFreeAsync(p, stream) != cudaSuccess) cudaGetLastError();
  }

 private:
  cudaMemPool_t pool_ = nullptr;
};

namespace detail::cuda {

/// Owns a block of a resource's memory, in the order of a stream. Move-only.
class Block {
 public:
  Block(CudaMemoryResource& resource, cudaStream_t stream, std::size_t bytes)
      : resource_(&resource),
        stream_(stream),
        data_(resource.allocate(bytes, stream)),
        bytes_(bytes) {}
  Block(Block&& o) noexcept
      : resource_(o.resource_),
        stream_(o.stream_),
        data_(std::exchange(o.data_, nullptr)),
        bytes_(o.bytes_) {}
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    if (data_ != nullptr) resource_->deallocate(data_, bytes_, stream_);
  }

  void* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  CudaMemoryResource* resource_;
  cudaStream_t stream_;
  void* data_;
  std::size_t bytes_;
};

}  // namespace detail::cuda

}  // namespace moxie
