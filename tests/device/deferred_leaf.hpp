#pragma once

#include <sys/mman.h>
#include <thrust/for_each.h>
#include <thrust/system/cpp/execution_policy.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "moxie/backend/thrust_host.hpp"

namespace moxie::test {

/// What a GPU looks like from the host: work waits in a queue until somebody blocks, and memory is
/// out of reach, by page protection, except while the queue runs. Code that reads device memory on
/// the host, or expects work to be done when it was only enqueued, crashes or computes garbage
/// here.
class DeferredDevice {
 public:
  DeferredDevice() = default;
  DeferredDevice(const DeferredDevice&) = delete;
  DeferredDevice& operator=(const DeferredDevice&) = delete;
  ~DeferredDevice() {
    for (const auto& [p, bytes] : blocks_) munmap(p, bytes);
  }

  void* allocate(std::size_t bytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t whole = (bytes / page + 1) * page;
    void* p = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    blocks_.emplace(p, whole);
    return p;
  }
  void deallocate(void* p) {
    run();  // what is enqueued may still use it
    munmap(p, blocks_.at(p));
    blocks_.erase(p);
  }

  void enqueue(std::function<void()> work) { queue_.push_back(std::move(work)); }
  std::size_t pending() const { return queue_.size(); }
  void run() {
    protect(PROT_READ | PROT_WRITE);
    for (const auto& work : queue_) work();
    queue_.clear();
    protect(PROT_NONE);
  }

 private:
  void protect(int protection) {
    for (const auto& [p, bytes] : blocks_) mprotect(p, bytes, protection);
  }

  std::map<void*, std::size_t> blocks_;
  std::vector<std::function<void()>> queue_;
};

struct DeferredPolicy : thrust::cpp::execution_policy<DeferredPolicy> {
  explicit DeferredPolicy(DeferredDevice& d) : device(&d) {}
  DeferredDevice* device;
};

/// Found by Thrust instead of the loop of its C++ system.
template <class Iterator, class Size, class F>
Iterator for_each_n(DeferredPolicy& policy, Iterator first, Size n, F f) {
  policy.device->enqueue([=] { thrust::for_each_n(thrust::cpp::par, first, n, f); });
  return first + n;
}

class DeferredLeaf {
 public:
  using Space = DeviceSpace;
  static constexpr bool batch_invariant = ThrustHostLeaf::batch_invariant;

  DeferredDevice& device() { return *device_; }

  auto policy() { return DeferredPolicy(*device_); }
  void* allocate(std::size_t bytes) { return device_->allocate(bytes); }
  void deallocate(void* p, std::size_t /*bytes*/) { device_->deallocate(p); }
  void copy(void* to, const void* from, std::size_t bytes) {
    device_->enqueue([=] { ThrustHostLeaf().copy(to, from, bytes); });
  }
  void copy_from_host(void* to, const void* from, std::size_t bytes) {
    copy(to, from, bytes);
    device_->run();
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) {
    copy(to, from, bytes);
    device_->run();
  }
  void synchronize() { device_->run(); }

  std::size_t sort_pairs_bytes(Index n) const { return ThrustHostLeaf().sort_pairs_bytes(n); }
  void sort_pairs(std::int32_t* keys, std::int32_t* values, Index n, int bits, std::byte* scratch) {
    device_->enqueue([=] { ThrustHostLeaf().sort_pairs(keys, values, n, bits, scratch); });
  }
  std::size_t exclusive_scan_bytes(Index n) const {
    return ThrustHostLeaf().exclusive_scan_bytes(n);
  }
  void exclusive_scan(const std::int32_t* in, std::int32_t* out, Index n, std::byte* scratch) {
    device_->enqueue([=] { ThrustHostLeaf().exclusive_scan(in, out, n, scratch); });
  }
  template <class T>
  void gemm_strided(Op op_a, Op op_b, Index m, Index n, Index k, T alpha, const T* a, Index lda,
                    Index stride_a, const T* b, Index ldb, Index stride_b, T beta, T* c, Index ldc,
                    Index stride_c, Index batch) {
    device_->enqueue([=] {
      ThrustHostLeaf().gemm_strided(op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb, stride_b,
                                    beta, c, ldc, stride_c, batch);
    });
  }

 private:
  std::unique_ptr<DeferredDevice> device_ = std::make_unique<DeferredDevice>();
};

template <class T>
using DeferredBackend = DeviceBackend<T, DeferredLeaf>;

static_assert(Backend<DeferredBackend<float>> && Backend<DeferredBackend<double>>);

}  // namespace moxie::test
