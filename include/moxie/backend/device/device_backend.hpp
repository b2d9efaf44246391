#pragma once

#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "moxie/backend/concept.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/core/error.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

namespace detail::device {

template <class F>
struct ByRowAndColumn {
  F f;
  Index cols;
  MOXIE_HD void operator()(Index i) const { f(i / cols, i % cols); }
};

template <class T>
struct Fill {
  T* data;
  T value;
  MOXIE_HD void operator()(Index i) const { data[i] = value; }
};

template <class T, class F>
struct SumChunk {
  F f;
  T* sums;  // [chunks, cols]
  Index rows;
  Index cols;
  MOXIE_HD void operator()(Index chunk, Index c) const {
    const Index first = chunk * sum_chunk;
    const Index last = rows - first < sum_chunk ? rows : first + sum_chunk;
    T sum = 0;
    for (Index r = first; r < last; ++r) sum += f(r, c);
    sums[chunk * cols + c] = sum;
  }
};

template <class T>
struct AddChunks {
  const T* sums;  // [chunks, cols]
  T* out;
  Index chunks;
  Index cols;
  MOXIE_HD void operator()(Index c) const {
    T sum = 0;
    for (Index chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * cols + c];
    out[c] += sum;
  }
};

/// One element of out. Only the device knows which expert owns the row, and whether any does.
template <class B>
struct GroupedProduct {
  Rows<B> rows;
  ConstMatrix<B> w;
  Matrix<B> out;
  bool transposed;
  MOXIE_HD void operator()(Index r, Index c) const {
    const Index expert = expert_of_row(rows.offset.data, rows.experts(), r);
    if (expert < 0) return;
    const Index inner = rows.x.cols;
    typename B::Scalar sum = 0;
    if (transposed) {
      const auto* column = w.row(expert * out.cols + c);
      for (Index k = 0; k < inner; ++k) sum += rows(r, k) * column[k];
    } else {
      for (Index k = 0; k < inner; ++k) sum += rows(r, k) * w(expert * inner + k, c);
    }
    out(r, c) = sum;
  }
};

/// One element of dw, whose rows [expert * K, expert * K + K) belong to an expert.
template <class B>
struct GroupedWeights {
  Rows<B> rows;
  Rows<B> dy;
  Matrix<B> dw;
  MOXIE_HD void operator()(Index i, Index c) const {
    const Index expert = i / rows.x.cols;
    const Index k = i % rows.x.cols;
    const Index first = rows.offset[expert];
    const Index last = rows.offset[expert + 1];
    if (first == last) return;
    typename B::Scalar sum = 0;
    for (Index r = first; r < last; ++r) sum += rows(r, k) * dy(r, c);
    dw(i, c) += sum;
  }
};

}  // namespace detail::device

/// The primitives of `Backend` on any device, over the few operations of a `Leaf`.
///
/// It runs no loop of its own: the host only enqueues, knows shapes but no contents of device
/// memory (the number of rows, offset[E], in particular), and allocates nothing outside `allocate`.
/// So the same source is right on a stream of a GPU and in a host loop, where it is tested.
template <std::floating_point T, Leaf<T> L>
class DeviceBackend {
 public:
  using Scalar = T;
  using Store = T;
  using Space = typename L::Space;
  static constexpr bool batch_invariant = L::batch_invariant;

  DeviceBackend() requires std::default_initializable<L>
  = default;
  explicit DeviceBackend(L leaf) : leaf_(std::move(leaf)) {}

  L& leaf() { return leaf_; }

  void* allocate(std::size_t bytes) { return leaf_.allocate(bytes); }
  void deallocate(void* p, std::size_t bytes) { leaf_.deallocate(p, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) { leaf_.copy(to, from, bytes); }
  void copy_from_host(void* to, const void* from, std::size_t bytes) {
    leaf_.copy_from_host(to, from, bytes);
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) {
    leaf_.copy_to_host(to, from, bytes);
  }
  template <class U>
  void fill(VectorView<U, Space> out, std::type_identity_t<U> value) {
    for_each(out.size, detail::device::Fill<U>{out.data, value});
  }
  void synchronize() { leaf_.synchronize(); }

  /// `grain` is advice to backends that make tasks of threads: here each index is a thread of its
  /// own.
  template <class F>
  void for_each(Index n, F f, Index /*grain*/ = 1) {
    thrust::for_each_n(leaf_.policy(), thrust::counting_iterator<Index>(0), n, f);
  }
  template <class F>
  void for_each(Index rows, Index cols, F f, Index /*grain*/ = 1) {
    for_each(rows * cols, detail::device::ByRowAndColumn<F>{f, cols});
  }

  std::size_t column_sums_bytes(Index rows, Index cols) const {
    return static_cast<std::size_t>(chunks(rows) * cols) * sizeof(T);
  }
  template <class F>
  void column_sums(Index rows, Index cols, F f, Vector<DeviceBackend> out,
                   Scratch<DeviceBackend> scratch) {
    require_scratch("column_sums", scratch, column_sums_bytes(rows, cols));
    T* sums = reinterpret_cast<T*>(scratch.data);
    for_each(chunks(rows), cols, detail::device::SumChunk<T, F>{f, sums, rows, cols});
    for_each(cols, detail::device::AddChunks<T>{sums, out.data, chunks(rows), cols});
  }

  void gemm(Op op_a, Op op_b, T alpha, ConstMatrix<DeviceBackend> a, ConstMatrix<DeviceBackend> b,
            T beta, Matrix<DeviceBackend> c) {
    products(op_a, op_b, alpha, a, 0, b, 0, beta, c, 0, 1);
  }

  /// One call of the leaf where one distance describes images and heads together, else one for each
  /// image or each head, whichever are fewer.
  void batched_gemm(Op op_a, Op op_b, T alpha, ConstBatched<DeviceBackend> a,
                    ConstBatched<DeviceBackend> b, T beta, Batched<DeviceBackend> c) {
    const Index images = c.images;
    const Index heads = c.heads;
    const auto even = [heads](const auto& x) { return x.image_stride == heads * x.head_stride; };
    if (even(a) && even(b) && even(c)) {
      products(op_a, op_b, alpha, a.first, a.head_stride, b.first, b.head_stride, beta, c.first,
               c.head_stride, images * heads);
    } else if (images <= heads) {
      for (Index i = 0; i < images; ++i) {
        products(op_a, op_b, alpha, a(i, 0), a.head_stride, b(i, 0), b.head_stride, beta, c(i, 0),
                 c.head_stride, heads);
      }
    } else {
      for (Index h = 0; h < heads; ++h) {
        products(op_a, op_b, alpha, a(0, h), a.image_stride, b(0, h), b.image_stride, beta, c(0, h),
                 c.image_stride, images);
      }
    }
  }

  void grouped_gemm(const Rows<DeviceBackend>& rows, Op op, ConstMatrix<DeviceBackend> w,
                    Matrix<DeviceBackend> out) {
    if constexpr (GroupedLeaf<L, DeviceBackend>) {
      leaf_.grouped_gemm(rows, op, w, out);
    } else {
      for_each(rows.rows, out.cols,
               detail::device::GroupedProduct<DeviceBackend>{rows, w, out, op == Op::transpose});
    }
  }
  /// The ranges of rows are those of `rows.offset`; `dy.offset` is not read.
  void grouped_gemm_weights(const Rows<DeviceBackend>& rows, const Rows<DeviceBackend>& dy,
                            Matrix<DeviceBackend> dw) {
    if constexpr (GroupedLeaf<L, DeviceBackend>) {
      leaf_.grouped_gemm_weights(rows, dy, dw);
    } else {
      for_each(dw.rows, dw.cols, detail::device::GroupedWeights<DeviceBackend>{rows, dy, dw});
    }
  }

  std::size_t sort_pairs_bytes(Index n) const { return leaf_.sort_pairs_bytes(n); }
  void sort_pairs(IntVector<DeviceBackend> keys, IntVector<DeviceBackend> values, int bits,
                  Scratch<DeviceBackend> scratch) {
    require_scratch("sort_pairs", scratch, sort_pairs_bytes(keys.size));
    leaf_.sort_pairs(keys.data, values.data, keys.size, bits, scratch.data);
  }

  std::size_t exclusive_scan_bytes(Index n) const { return leaf_.exclusive_scan_bytes(n); }
  void exclusive_scan(ConstIntVector<DeviceBackend> in, IntVector<DeviceBackend> out,
                      Scratch<DeviceBackend> scratch) {
    require_scratch("exclusive_scan", scratch, exclusive_scan_bytes(in.size));
    leaf_.exclusive_scan(in.data, out.data, in.size, scratch.data);
  }

 private:
  static Index chunks(Index rows) { return (rows + sum_chunk - 1) / sum_chunk; }

  static void require_scratch(const char* who, Scratch<DeviceBackend> scratch, std::size_t bytes) {
    if (static_cast<std::size_t>(scratch.size) < bytes) {
      throw_shape("moxie::DeviceBackend::", who, ": scratch has ", scratch.size,
                  " bytes, expected at least ", bytes, " (", who, "_bytes)");
    }
  }

  /// BLAS refuses a leading dimension below the width, even where no second row or no column uses
  /// it.
  static Index leading(const ConstMatrix<DeviceBackend>& x) {
    const Index width = x.cols > 0 ? x.cols : 1;
    const bool unused = x.rows <= 1 || x.cols == 0;
    return unused && x.stride < width ? width : x.stride;
  }

  /// BLAS stores by columns: it sees the transposes of our matrices, and the transpose of a product
  /// is the product of the transposes in reverse order. So the operands change places, and nothing
  /// else changes.
  void products(Op op_a, Op op_b, T alpha, ConstMatrix<DeviceBackend> a, Index stride_a,
                ConstMatrix<DeviceBackend> b, Index stride_b, T beta, Matrix<DeviceBackend> c,
                Index stride_c, Index count) {
    const Index inner = op_a == Op::none ? a.cols : a.rows;
    leaf_.gemm_strided(op_b, op_a, c.cols, c.rows, inner, alpha, b.data, leading(b), stride_b,
                       a.data, leading(a), stride_a, beta, c.data, leading(c), stride_c, count);
  }

  L leaf_;
};

}  // namespace moxie
