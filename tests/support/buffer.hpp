#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include "moxie/core/view.hpp"

namespace moxie::test {

/// Elements in the memory of a backend, which must outlive them.
///
/// Filled and read from the host by blocking copies. The allocation is exact, so that the address
/// sanitizer sees an access past the end on backends of the host.
template <class T, class B>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer(B& backend, const std::vector<T>& values)
      : backend_(&backend),
        size_(static_cast<Index>(values.size())),
        data_(static_cast<T*>(backend.allocate(bytes()))) {
    assign(values);
  }
  /// No default for `value`: `Buffer(backend, {5})` is one element, not five.
  Buffer(B& backend, Index size, T value)
      : Buffer(backend, std::vector<T>(static_cast<std::size_t>(size), value)) {}
  Buffer(Buffer&& other) noexcept
      : backend_(other.backend_),
        size_(std::exchange(other.size_, 0)),
        data_(std::exchange(other.data_, nullptr)) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_ != nullptr) backend_->deallocate(data_, bytes());
  }

  Index size() const { return size_; }
  T* data() const { return data_; }

  VectorView<T, typename B::Space> view() const { return {data_, size_}; }
  /// As a matrix: the first `rows` x `cols` elements, or `stride` elements from row to row.
  MatrixView<T, typename B::Space> view(Index rows, Index cols) const {
    return view(rows, cols, cols);
  }
  MatrixView<T, typename B::Space> view(Index rows, Index cols, Index stride) const {
    REQUIRE((rows == 0 || (rows - 1) * stride + cols <= size_));
    return {data_, rows, cols, stride};
  }

  /// Overwrites all elements.
  void assign(const std::vector<T>& values) {
    REQUIRE(static_cast<Index>(values.size()) == size_);
    if (size_ > 0) backend_->copy_from_host(data_, values.data(), bytes());
  }
  std::vector<T> to_vector() const {
    std::vector<T> values(static_cast<std::size_t>(size_));
    if (size_ > 0) backend_->copy_to_host(values.data(), data_, bytes());
    return values;
  }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }

  B* backend_;
  Index size_;
  T* data_;
};

}  // namespace moxie::test
