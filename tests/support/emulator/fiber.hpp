#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <new>
#include <stdexcept>
#include <vector>

#include "support/emulator/sanitizers.hpp"

namespace moxie::emulator {

/// What the fibers of a block run on: stacks, and who they are to ThreadSanitizer. Both are dear to
/// get, so they are kept from block to block.
class Seats {
 public:
  Seats() = default;
  Seats(const Seats&) = delete;
  Seats& operator=(const Seats&) = delete;
  ~Seats() { release(); }

  void prepare(std::size_t count) {
    if (count <= count_) return;
    release();
    void* const p = mmap(nullptr, count * bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char*>(p);
    count_ = count;
    for (std::size_t i = 0; i < count; ++i) {
      mprotect(memory_ + i * bytes, guard, PROT_NONE);
#if defined(MOXIE_EMULATOR_TSAN)
      tsan_.push_back(__tsan_create_fiber(0));
#endif
    }
  }
  char* stack(std::size_t i) const { return memory_ + i * bytes + guard; }
  static constexpr std::size_t stack_bytes() { return bytes - guard; }
#if defined(MOXIE_EMULATOR_TSAN)
  void* tsan(std::size_t i) const { return tsan_[i]; }
#endif

 private:
  static constexpr std::size_t guard = 4096;
  static constexpr std::size_t bytes = 256 * 1024;  // of which few are touched

  void release() {
    if (memory_ == nullptr) return;
#if defined(MOXIE_EMULATOR_ASAN)
    __asan_unpoison_memory_region(memory_, count_ * bytes);
#endif
#if defined(MOXIE_EMULATOR_TSAN)
    for (void* const fiber : tsan_) __tsan_destroy_fiber(fiber);
    tsan_.clear();
#endif
    munmap(memory_, count_ * bytes);
    memory_ = nullptr;
    count_ = 0;
  }

  char* memory_ = nullptr;
  std::size_t count_ = 0;
#if defined(MOXIE_EMULATOR_TSAN)
  std::vector<void*> tsan_;
#endif
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

  /// `entry` ends with a call of finish and never returns.
  void start(Scheduler& scheduler, const Seats& seats, std::size_t seat, void (*entry)()) {
    scheduler_ = &scheduler;
    stack_ = seats.stack(seat);
    if (getcontext(&context_) != 0) throw std::runtime_error("emulator: getcontext failed");
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = Seats::stack_bytes();
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#if defined(MOXIE_EMULATOR_TSAN)
    tsan_ = seats.tsan(seat);
#endif
  }

  /// In the scheduler: runs the fiber until it yields or finishes.
  void resume() {
#if defined(MOXIE_EMULATOR_TSAN)
    __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(MOXIE_EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(&scheduler_->fake_stack, stack_, Seats::stack_bytes());
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
  MOXIE_EMULATOR_UNSEEN void finish() { leave(nullptr); }

 private:
  MOXIE_EMULATOR_UNSEEN void leave([[maybe_unused]] void** fake_stack) {
#if defined(MOXIE_EMULATOR_TSAN)
    __tsan_switch_to_fiber(scheduler_->tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(MOXIE_EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(fake_stack, scheduler_->bottom, scheduler_->size);
#endif
    swapcontext(&context_, &scheduler_->context);
  }

  ucontext_t context_;
  Scheduler* scheduler_ = nullptr;
  char* stack_ = nullptr;
#if defined(MOXIE_EMULATOR_TSAN)
  void* tsan_ = nullptr;
#endif
#if defined(MOXIE_EMULATOR_ASAN)
  void* fake_stack_ = nullptr;
#endif
};

}  // namespace moxie::emulator
