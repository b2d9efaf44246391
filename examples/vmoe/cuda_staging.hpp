#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstring>
#include <memory>

#include "moxie/backend/cuda/error.hpp"
#include "moxie/backend/cuda/stream.hpp"
#include "moxie/core/memory.hpp"

namespace vmoe {

/// Staging of backend.hpp for a backend that computes on a stream of CUDA's, `backend.leaf().stream()`: pinned memory of the
/// host and as much of the device. The copy has a stream of its own, so that it runs beside what the backend computes; the
/// two streams wait for each other by events, and the host for neither.
template <moxie::Backend B>
class CudaStaging {
 public:
  CudaStaging(B& backend, std::size_t bytes)
      : bytes_(bytes),
        stream_(backend.leaf().stream()),
        host_(pinned(bytes)),
        device_(backend, bytes) {
    MOXIE_CUDA_TRY(cudaGetDevice(&number_));
    std::memset(host_.get(), 0, bytes);
    backend.copy_from_host(device_.data(), host_.get(), bytes);
  }
  CudaStaging(const CudaStaging&) = delete;
  CudaStaging& operator=(const CudaStaging&) = delete;
  ~CudaStaging() { cudaStreamSynchronize(copies_.get()); }

  void begin() { used_.record(stream_); }
  std::byte* host() {
    MOXIE_CUDA_TRY(cudaSetDevice(number_));  // it belongs to the thread
    MOXIE_CUDA_TRY(cudaEventSynchronize(sent_.event));
    return host_.get();
  }
  void send() {
    MOXIE_CUDA_TRY(cudaStreamWaitEvent(copies_.get(), used_.event, 0));
    MOXIE_CUDA_TRY(cudaMemcpyAsync(device_.data(), host_.get(), bytes_, cudaMemcpyHostToDevice,
                                   copies_.get()));
    sent_.record(copies_.get());
  }
  const std::byte* receive() {
    MOXIE_CUDA_TRY(cudaStreamWaitEvent(stream_, sent_.event, 0));
    return device_.data();
  }

 private:
  struct FreePinned {
    void operator()(std::byte* p) const { cudaFreeHost(p); }
  };
  static std::unique_ptr<std::byte, FreePinned> pinned(std::size_t bytes) {
    void* p = nullptr;
    MOXIE_CUDA_TRY(cudaHostAlloc(&p, bytes > 0 ? bytes : 1, cudaHostAllocDefault));
    return std::unique_ptr<std::byte, FreePinned>(static_cast<std::byte*>(p));
  }
  struct Event {
    Event() { MOXIE_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming)); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    ~Event() { cudaEventDestroy(event); }
    void record(cudaStream_t stream) { MOXIE_CUDA_TRY(cudaEventRecord(event, stream)); }
    cudaEvent_t event = nullptr;
  };

  int number_ = 0;
  std::size_t bytes_;
  cudaStream_t stream_;
  moxie::CudaStream copies_;
  Event used_, sent_;
  std::unique_ptr<std::byte, FreePinned> host_;
  moxie::Memory<B> device_;
};

}  // namespace vmoe
