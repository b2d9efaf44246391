#pragma once

#include <type_traits>
#include <vector>

#include "backend.hpp"
#include "data/image_set.hpp"
#include "moxie/core/memory.hpp"

namespace vmoe {

/// Numbers of the backend's memory on the host. Blocks.
template <class T>
std::vector<std::remove_const_t<T>> to_host(Backend& backend,
                                            moxie::VectorView<T, Backend::Space> from) {
  std::vector<std::remove_const_t<T>> out(to_size(from.size));
  if (!out.empty()) backend.copy_to_host(out.data(), from.data, out.size() * sizeof(T));
  return out;
}
/// The same of a matrix, row by row.
template <class T>
std::vector<std::remove_const_t<T>> to_host(Backend& backend,
                                            moxie::MatrixView<T, Backend::Space> from) {
  std::vector<std::remove_const_t<T>> out(to_size(from.size()));
  if (out.empty()) return out;
  if (from.stride == from.cols) {
    backend.copy_to_host(out.data(), from.data, out.size() * sizeof(T));
    return out;
  }
  for (Index r = 0; r < from.rows; ++r)
    backend.copy_to_host(out.data() + r * from.cols, from.row(r), to_size(from.cols) * sizeof(T));
  return out;
}

/// Numbers on the host, and as many in the backend's memory. The backend must outlive them.
template <class T>
class Mirror {
 public:
  /// Zeros.
  Mirror(Backend& backend, Index size)
      : host(to_size(size)), backend_(&backend), there_(backend, size) {}

  std::vector<T> host;

  /// In the backend's memory.
  T* data() const { return there_.view().data; }
  /// Copies the first `count` numbers from the host, or to it. Blocks.
  void send(Index count) {
    if (count > 0) backend_->copy_from_host(data(), host.data(), to_size(count) * sizeof(T));
  }
  void receive(Index count) {
    if (count > 0) backend_->copy_to_host(host.data(), data(), to_size(count) * sizeof(T));
  }

 private:
  Backend* backend_;
  moxie::Buffer<Backend, T> there_;
};

}  // namespace vmoe
