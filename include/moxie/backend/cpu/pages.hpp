#pragma once

#include <cstddef>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace moxie::detail {

// Products walk through memory with strides of kilobytes: on pages of 4 KiB each step costs a look-up of the address.
inline constexpr std::size_t huge_page = std::size_t{1} << 21U;

constexpr std::align_val_t page_alignment(std::size_t bytes) {
  return std::align_val_t{bytes >= huge_page ? huge_page : std::size_t{256}};
}
/// Aligned to 256 bytes, on huge pages if there are enough bytes and the system gives some. @throws std::bad_alloc
inline void* allocate_pages(std::size_t bytes) {
  void* const p = ::operator new(bytes, page_alignment(bytes));
#if defined(__linux__)
  if (bytes >= huge_page) (void)::madvise(p, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
  return p;
}
inline void free_pages(void* p, std::size_t bytes) noexcept {
  ::operator delete(p, page_alignment(bytes));
}

/// Owns such memory.
class Pages {
 public:
  Pages() = default;
  explicit Pages(std::size_t bytes) : data_(allocate_pages(bytes)), bytes_(bytes) {}
  Pages(Pages&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  Pages& operator=(Pages&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() {
    if (data_ != nullptr) free_pages(data_, bytes_);
  }

  void* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace moxie::detail
