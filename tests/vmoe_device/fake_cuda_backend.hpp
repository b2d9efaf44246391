#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "cuda_staging.hpp"
#include "moxie/backend/cpu.hpp"

/// As examples/vmoe/backend.hpp wants it, for what feeds a backend: memory of the host that is given back when a stream of
/// fake_cuda has come so far. Nothing computes on it.
namespace vmoe {

class Backend : public moxie::CpuBackend<float> {
 public:
  struct Leaf {
    moxie::CudaStream own;
    cudaStream_t stream() const { return own.get(); }
  };
  const Leaf& leaf() const { return leaf_; }
  void deallocate(void* p, std::size_t bytes) {
    leaf_.stream()->enqueue([=] { CpuBackend().deallocate(p, bytes); });
  }

 private:
  Leaf leaf_;
};

inline constexpr const char* backend_name = "fake_cuda";
inline constexpr bool backend_uses_pool = false;

using Staging = CudaStaging<Backend>;

}  // namespace vmoe
