// A file of its own: where GCC inlines both, it takes free() for the wrong partner of operator new.
#include "device/allocations.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<int> count{0};

void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  ++count;
  return std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
}
void* or_throw(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

int moxie::test::allocations() { return count; }

void* operator new(std::size_t bytes) {
  return or_throw(counted(bytes, alignof(std::max_align_t)));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return or_throw(counted(bytes, static_cast<std::size_t>(alignment)));
}
// The address sanitizer brings its own of each form that is not replaced, and tells a mixed pair.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted(bytes, alignof(std::max_align_t));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
