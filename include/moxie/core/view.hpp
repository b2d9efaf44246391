#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "moxie/core/host_device.hpp"

/// Views: pointers with a shape. They own nothing, are trivially copyable, and carry their memory space in
/// their type, so that a host pointer cannot reach a device kernel.
namespace moxie {

using Index = std::ptrdiff_t;

struct HostSpace {};
struct DeviceSpace {};

/// Whether a factor of a product is read as it lies or transposed.
enum class Op { none, transpose };

/// Row-major matrix: element (i, j) is `data[i * stride + j]`.
template <class T, class Space = HostSpace>
struct MatrixView {
  T* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;  ///< elements between the starts of two rows

  MatrixView() = default;
  MOXIE_HD constexpr MatrixView(T* d, Index r, Index c) : data(d), rows(r), cols(c), stride(c) {}
  MOXIE_HD constexpr MatrixView(T* d, Index r, Index c, Index s)
      : data(d), rows(r), cols(c), stride(s) {}
  /// A writable view reads as a read-only one.
  template <class U>
  requires std::same_as<const U, T> MOXIE_HD constexpr MatrixView(const MatrixView<U, Space>& o)
      : data(o.data), rows(o.rows), cols(o.cols), stride(o.stride) {}

  MOXIE_HD constexpr T& operator()(Index i, Index j) const { return data[i * stride + j]; }
  MOXIE_HD constexpr T* row(Index i) const { return data + i * stride; }
  /// The first `n` rows.
  MOXIE_HD constexpr MatrixView top(Index n) const { return {data, n, cols, stride}; }
  /// Rows [first, first + n).
  MOXIE_HD constexpr MatrixView middle(Index first, Index n) const {
    return {data + first * stride, n, cols, stride};
  }
  /// Columns [first, first + n).
  MOXIE_HD constexpr MatrixView columns(Index first, Index n) const {
    return {data + first, rows, n, stride};
  }
  MOXIE_HD constexpr Index size() const { return rows * cols; }
  MOXIE_HD constexpr explicit operator bool() const { return data != nullptr; }
};

template <class T, class Space = HostSpace>
struct VectorView {
  T* data = nullptr;
  Index size = 0;

  VectorView() = default;
  MOXIE_HD constexpr VectorView(T* d, Index n) : data(d), size(n) {}
  template <class U>
  requires std::same_as<const U, T> MOXIE_HD constexpr VectorView(const VectorView<U, Space>& o)
      : data(o.data), size(o.size) {}

  MOXIE_HD constexpr T& operator[](Index i) const { return data[i]; }
  MOXIE_HD constexpr VectorView middle(Index first, Index n) const { return {data + first, n}; }
  MOXIE_HD constexpr explicit operator bool() const { return data != nullptr; }
};

/// images x heads matrices of one shape, at regular distances in memory.
template <class T, class Space = HostSpace>
struct BatchView {
  MatrixView<T, Space> first;
  Index images = 0;
  Index image_stride = 0;  ///< elements between two images
  Index heads = 1;
  Index head_stride = 0;  ///< elements between two heads of an image

  BatchView() = default;
  MOXIE_HD constexpr BatchView(MatrixView<T, Space> f, Index n, Index n_stride, Index h = 1,
                               Index h_stride = 0)
      : first(f), images(n), image_stride(n_stride), heads(h), head_stride(h_stride) {}
  template <class U>
  requires std::same_as<const U, T> MOXIE_HD constexpr BatchView(const BatchView<U, Space>& o)
      : first(o.first),
        images(o.images),
        image_stride(o.image_stride),
        heads(o.heads),
        head_stride(o.head_stride) {}

  MOXIE_HD constexpr MatrixView<T, Space> operator()(Index image, Index head) const {
    return {first.data + image * image_stride + head * head_stride, first.rows, first.cols,
            first.stride};
  }
};

/// Views of a backend's own scalars in its own memory.
template <class B>
using Matrix = MatrixView<typename B::Scalar, typename B::Space>;
template <class B>
using ConstMatrix = MatrixView<const typename B::Scalar, typename B::Space>;
template <class B>
using Vector = VectorView<typename B::Scalar, typename B::Space>;
template <class B>
using ConstVector = VectorView<const typename B::Scalar, typename B::Space>;
template <class B>
using Batched = BatchView<typename B::Scalar, typename B::Space>;
template <class B>
using ConstBatched = BatchView<const typename B::Scalar, typename B::Space>;
template <class B>
using IntMatrix = MatrixView<std::int32_t, typename B::Space>;
template <class B>
using ConstIntMatrix = MatrixView<const std::int32_t, typename B::Space>;
template <class B>
using IntVector = VectorView<std::int32_t, typename B::Space>;
template <class B>
using ConstIntVector = VectorView<const std::int32_t, typename B::Space>;
/// Memory that an operation may use as it likes while it runs.
template <class B>
using Scratch = VectorView<std::byte, typename B::Space>;

static_assert(std::is_trivially_copyable_v<MatrixView<float>> &&
              std::is_trivially_copyable_v<VectorView<float>> &&
              std::is_trivially_copyable_v<BatchView<float>>);

}  // namespace moxie
