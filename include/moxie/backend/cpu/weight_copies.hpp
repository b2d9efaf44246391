#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "moxie/backend/cpu/pages.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail {

/// A copy derived from a parameter entry (packed, narrowed), and the version of the values it was made of.
///
/// Thread safety: `current` may be called from any number of threads. Where a pass can do without the copy with the same bits,
/// nobody waits for a thread that is making it. That a copy is not made anew while somebody reads it follows from the rule of
/// Parameters::edit, that values do not change during a pass.
class DerivedCopy {
 public:
  /// Takes the memory, once. @throws std::bad_alloc
  void reserve(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (memory_.bytes() != 0) return;
    memory_ = Pages(bytes);
    reserved_.store(true, std::memory_order_release);
  }
  std::size_t bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return memory_.bytes();
  }
  /// The copy of the values of version `key` (> 0). If that is not at hand: null, or with `renew` whatever `make(memory)`
  /// wrote, unless there is no memory or, without `wait`, another thread is just making it. (With `wait`, `make` may not need
  /// an executor whose threads might wait here.)
  template <class F>
  const void* current(std::uint64_t key, bool renew, bool wait, const F& make) {
    if (!reserved_.load(std::memory_order_acquire)) return nullptr;
    if (key_.load(std::memory_order_acquire) == key) return memory_.data();
    if (!renew) return nullptr;
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    if (wait) {
      lock.lock();
    } else if (!lock.try_lock()) {
      return nullptr;
    }
    if (key_.load(std::memory_order_acquire) == key) return memory_.data();
    key_.store(0, std::memory_order_release);
    make(memory_.data());
    key_.store(key, std::memory_order_release);
    return memory_.data();
  }

 private:
  mutable std::mutex mutex_;
  std::atomic<bool> reserved_{false};
  std::atomic<std::uint64_t> key_{0};  // 0: of nothing
  Pages memory_;
};

/// What the CPU keeps beside the weights of a layer's experts. Copies of a layer share it.
struct CpuWeightCopies {
  struct All {
    DerivedCopy plain, transposed, narrow;
  };
  std::shared_ptr<All> all = std::make_shared<All>();
};

}  // namespace moxie::detail
