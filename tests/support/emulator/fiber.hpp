#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <new>
#include <stdexcept>

#include "support/emulator/sanitizers.hpp"

namespace moxie::emulator {

/// Memory for the stacks of the fibers of a block. Its pages are cheap to hold and dear to get, so it
/// is kept from launch to launch.
class Stacks {
 public:
  static constexpr std::size_t bytes = 64 * 1024;  // of each, its guard included

  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { release(); }

  /// Makes `count` stacks that nobody used before, as far as a sanitizer knows.
  void prepare(std::size_t count) {
    if (count > count_) {
      release();
      memory_ = map(nullptr, count * bytes, 0);
      count_ = count;
      for (std::size_t i = 0; i < count; ++i) mprotect(low(i), guard, PROT_NONE);
    } else if (under_tsan) {
      // The pages' next owners are new threads to the sanitizer: it forgets the last ones only so.
      map(memory_, count * bytes, MAP_FIXED);
    }
#if defined(MOXIE_EMULATOR_ASAN)
    // a fiber of a kernel that failed never left its functions
    __asan_unpoison_memory_region(memory_, count * bytes);
#endif
  }
  char* usable(std::size_t i) const { return low(i) + guard; }
  static constexpr std::size_t usable_bytes() { return bytes - guard; }

 private:
  static constexpr std::size_t guard = 4096;

  char* low(std::size_t i) const { return memory_ + i * bytes; }
  static char* map(char* at, std::size_t size, int flags) {
    void* const p = mmap(at, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | flags, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    return static_cast<char*>(p);
  }
  void release() {
    if (memory_ != nullptr) munmap(memory_, count_ * bytes);
    memory_ = nullptr;
    count_ = 0;
  }

  char* memory_ = nullptr;
  std::size_t count_ = 0;
};

/// Where the fibers of a block come from and give way to.
struct Scheduler {
  ucontext_t context;
#if defined(MOXIE_EMULATOR_TSAN)
  void* tsan = __tsan_get_current_fiber();
#endif
#if defined(MOXIE_EMULATOR_ASAN)
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  std::size_t size = 0;
#endif
};

/// A function on a stack of its own, which runs when it is resumed and until it gives way.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() { forget(); }

  /// `entry` ends with a call of finish and never returns.
  void start(Scheduler& scheduler, char* stack, std::size_t bytes, void (*entry)()) {
    forget();
    scheduler_ = &scheduler;
    stack_ = stack;
    bytes_ = bytes;
    if (getcontext(&context_) != 0) throw std::runtime_error("emulator: getcontext failed");
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#if defined(MOXIE_EMULATOR_TSAN)
    tsan_ = __tsan_create_fiber(0);
#endif
  }

  /// In the scheduler: runs the fiber until it yields or finishes.
  void resume() {
#if defined(MOXIE_EMULATOR_TSAN)
    __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(MOXIE_EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(&scheduler_->fake_stack, stack_, bytes_);
#endif
    swapcontext(&scheduler_->context, &context_);
#if defined(MOXIE_EMULATOR_ASAN)
    __sanitizer_finish_switch_fiber(scheduler_->fake_stack, nullptr, nullptr);
#endif
  }

  /// In the fiber: its first call.
  void entered() {
#if defined(MOXIE_EMULATOR_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_->bottom, &scheduler_->size);
#endif
  }
  /// In the fiber: gives way until it is resumed.
  void yield() {
#if defined(MOXIE_EMULATOR_ASAN)
    leave(&fake_stack_);
    __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_->bottom, &scheduler_->size);
#else
    leave(nullptr);
#endif
  }
  /// In the fiber: its last call, which does not return.
  void finish() { leave(nullptr); }

 private:
  void leave([[maybe_unused]] void** fake_stack) {
#if defined(MOXIE_EMULATOR_TSAN)
    __tsan_switch_to_fiber(scheduler_->tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(MOXIE_EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(fake_stack, scheduler_->bottom, scheduler_->size);
#endif
    swapcontext(&context_, &scheduler_->context);
  }
  void forget() {
#if defined(MOXIE_EMULATOR_TSAN)
    if (tsan_ != nullptr) __tsan_destroy_fiber(tsan_);
    tsan_ = nullptr;
#endif
  }

  ucontext_t context_;
  Scheduler* scheduler_ = nullptr;
  char* stack_ = nullptr;
  std::size_t bytes_ = 0;
#if defined(MOXIE_EMULATOR_TSAN)
  void* tsan_ = nullptr;
#endif
#if defined(MOXIE_EMULATOR_ASAN)
  void* fake_stack_ = nullptr;
#endif
};

}  // namespace moxie::emulator
