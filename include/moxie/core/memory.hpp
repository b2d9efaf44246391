#pragma once

#include <cstddef>
#include <utility>

#include "moxie/backend/concept.hpp"

namespace moxie {

/// Owns a block of a backend's memory. Move-only; the backend must outlive it.
template <Backend B>
class Memory {
 public:
  Memory() = default;
  Memory(B& backend, std::size_t bytes)
      : backend_(&backend), data_(bytes > 0 ? backend.allocate(bytes) : nullptr), bytes_(bytes) {}
  Memory(Memory&& o) noexcept
      : backend_(o.backend_),
        data_(std::exchange(o.data_, nullptr)),
        bytes_(std::exchange(o.bytes_, 0)) {}
  Memory& operator=(Memory&& o) noexcept {
    std::swap(backend_, o.backend_);
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (data_ != nullptr) backend_->deallocate(data_, bytes_);
  }

  std::byte* data() const noexcept { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  B* backend_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// A vector of a backend's memory with its owner, zeroed: for what lives as long as a model.
template <Backend B, class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(B& backend, Index size)
      : memory_(backend, static_cast<std::size_t>(size) * sizeof(T)), size_(size) {
    backend.fill(view(), T(0));
  }
  VectorView<T, typename B::Space> view() const {
    return {reinterpret_cast<T*>(memory_.data()), size_};
  }

 private:
  Memory<B> memory_;
  Index size_ = 0;
};

}  // namespace moxie
