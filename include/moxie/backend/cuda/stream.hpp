#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "moxie/backend/cuda/error.hpp"

namespace moxie {

/// Owns a stream of the current device that does not wait for the default stream. Move-only.
///
/// It must outlive the backends on it; work that is still enqueued when it goes is done.
class CudaStream {
 public:
  /// @throws cuda_error if there is no device.
  CudaStream() { MOXIE_CUDA_TRY(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  CudaStream(CudaStream&& o) noexcept : stream_(std::exchange(o.stream_, nullptr)) {}
  CudaStream& operator=(CudaStream&& o) noexcept {
    std::swap(stream_, o.stream_);
    return *this;
  }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace moxie
