#pragma once

/// What the emulator tells the sanitizers. Without one, all of this is nothing.
///
/// ThreadSanitizer sees every CUDA thread as a thread and every barrier as what it orders, so it
/// reports the races of a kernel. The emulator's own bookkeeping goes on inside Quiet.

#include <cstddef>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define MOXIE_EMULATOR_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define MOXIE_EMULATOR_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define MOXIE_EMULATOR_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#define MOXIE_EMULATOR_ASAN 1
#endif

#if defined(MOXIE_EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
void __tsan_write_range(void* p, unsigned long bytes);  // NOLINT(bugprone-reserved-identifier)
}
#endif
#if defined(MOXIE_EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/// Functions that are entered and never left would fill ThreadSanitizer's stack of calls.
#if defined(MOXIE_EMULATOR_TSAN)
#define MOXIE_EMULATOR_UNSEEN __attribute__((no_sanitize("thread")))
#else
#define MOXIE_EMULATOR_UNSEEN
#endif

namespace moxie::emulator {

#if defined(MOXIE_EMULATOR_TSAN)
inline constexpr bool under_tsan = true;
#else
inline constexpr bool under_tsan = false;
#endif

/// While it lives, the calling fiber's accesses are not looked at.
class Quiet {
 public:
#if defined(MOXIE_EMULATOR_TSAN)
  Quiet() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Quiet() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Quiet() {}
  ~Quiet() {}
#endif
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

/// An order between fibers: all that came before a `release` happened before what follows an
/// `acquire` of the same token. A barrier has a token for each time it is passed: with a single one
/// a thread that wakes late would inherit what the others did since.
class Token {
 public:
#if defined(MOXIE_EMULATOR_TSAN)
  void release() { __tsan_release(&address_); }
  void acquire() { __tsan_acquire(&address_); }

 private:
  char address_ = 0;
#else
  void release() {}
  void acquire() {}
#endif
};

/// Some thread may write these bytes from now on: an access to them is a race already.
inline void will_write([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(MOXIE_EMULATOR_TSAN)
  __tsan_write_range(p, bytes);
#endif
}

}  // namespace moxie::emulator
