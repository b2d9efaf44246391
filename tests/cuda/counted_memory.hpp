#pragma once

#include "moxie/backend/cuda/memory.hpp"

namespace moxie::test {

/// A pool that counts what is taken from it.
class CountedMemory final : public CudaMemoryResource {
 public:
  void* allocate(std::size_t bytes, cudaStream_t stream) override {
    ++allocations;
    ++alive;
    return pool_.allocate(bytes, stream);
  }
  void deallocate(void* p, std::size_t bytes, cudaStream_t stream) noexcept override {
    --alive;
    pool_.deallocate(p, bytes, stream);
  }
  int allocations = 0;
  int alive = 0;

 private:
  CudaPool pool_;
};

}  // namespace moxie::test
