#pragma once

#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "moxie/backend/concept.hpp"
#include "moxie/backend/device/functors.hpp"
#include "moxie/backend/device/grouped_shapes.hpp"
#include "moxie/backend/device/leaf.hpp"
#include "moxie/backend/device/twins.hpp"
#include "moxie/core/error.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// The primitives of `Backend` on any device, over the few operations of a `Leaf`.
///
/// It runs no loop of its own: the host only enqueues, knows shapes but no contents of device
/// memory (the number of rows, offset[E], in particular), and allocates nothing outside `allocate`.
/// So the same source is right on a stream of a GPU and in a host loop, where it is tested.
template <std::floating_point T, Leaf<T> L>
class DeviceBackend : public detail::device::Twins<T, L> {
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
    if (out.size != cols) {
      throw_shape("moxie::DeviceBackend::column_sums: out has ", out.size, " elements, expected ",
                  cols);
    }
    require_scratch("column_sums", scratch, column_sums_bytes(rows, cols));
    T* sums = reinterpret_cast<T*>(scratch.data);
    if constexpr (KernelLeaf<L>) {
      this->run_column_sums(rows, cols, f, sums, out.data);
    } else {
      for_each(chunks(rows), cols, detail::device::SumChunk<T, F>{f, sums, rows, cols});
      for_each(cols, detail::device::AddChunks<T>{sums, out.data, chunks(rows), cols});
    }
  }

  void gemm(Op op_a, Op op_b, T alpha, ConstMatrix<DeviceBackend> a, ConstMatrix<DeviceBackend> b,
            T beta, Matrix<DeviceBackend> c) {
    require_product("gemm", op_a, op_b, a, b, c);
    products<false>(op_a, op_b, alpha, a, 0, b, 0, beta, c, 0, 1);
  }
  /// gemm with alpha = 1, by factors that a RoundingLeaf may round: LayerProduct.
  void rounded_gemm(Op op_a, Op op_b, ConstMatrix<DeviceBackend> a, ConstMatrix<DeviceBackend> b,
                    T beta, Matrix<DeviceBackend> c) {
    require_product("gemm", op_a, op_b, a, b, c);
    products<true>(op_a, op_b, T(1), a, 0, b, 0, beta, c, 0, 1);
  }

  /// One call of the leaf where one distance describes images and heads together, else one for each
  /// image or each head, whichever are fewer.
  void batched_gemm(Op op_a, Op op_b, T alpha, ConstBatched<DeviceBackend> a,
                    ConstBatched<DeviceBackend> b, T beta, Batched<DeviceBackend> c) {
    const Index images = c.images;
    const Index heads = c.heads;
    require_product("batched_gemm", op_a, op_b, a.first, b.first, c.first);
    if (a.images != images || b.images != images || a.heads != heads || b.heads != heads) {
      throw_shape("moxie::DeviceBackend::batched_gemm: a, b, c have ", a.images, ", ", b.images,
                  ", ", images, " images of ", a.heads, ", ", b.heads, ", ", heads,
                  " heads, expected the same");
    }
    const auto even = [heads](const auto& x) { return x.image_stride == heads * x.head_stride; };
    if (even(a) && even(b) && even(c)) {
      products<false>(op_a, op_b, alpha, a.first, a.head_stride, b.first, b.head_stride, beta,
                      c.first, c.head_stride, images * heads);
    } else if (images <= heads) {
      for (Index i = 0; i < images; ++i) {
        products<false>(op_a, op_b, alpha, a(i, 0), a.head_stride, b(i, 0), b.head_stride, beta,
                        c(i, 0), c.head_stride, heads);
      }
    } else {
      for (Index h = 0; h < heads; ++h) {
        products<false>(op_a, op_b, alpha, a(0, h), a.image_stride, b(0, h), b.image_stride, beta,
                        c(0, h), c.image_stride, images);
      }
    }
  }

  /// One strided product of the leaf where each expert has as many rows, and they lie as they are
  /// read.
  void grouped_gemm(const Rows<DeviceBackend>& rows, Op op, ConstMatrix<DeviceBackend> w,
                    Matrix<DeviceBackend> out) {
    detail::device::require_grouped(rows, op, w, out);
    if (detail::device::even(rows)) {
      const Index height = w.rows / rows.experts();  // of an expert's matrix
      products<true>(Op::none, op, T(1), rows.x.top(rows.each), rows.each * rows.x.stride,
                     w.top(height), height * w.stride, T(0), out.top(rows.each),
                     rows.each * out.stride, rows.experts());
      return;
    }
    if constexpr (GroupedLeaf<L, DeviceBackend>) {
      leaf_.grouped_gemm(rows, op, w, out);
    } else if constexpr (requires { this->product(rows, op, w, out); }) {
      this->product(rows, op, w, out);
    } else {
      for_each(rows.rows, out.cols,
               detail::device::GroupedProduct<DeviceBackend>{rows, w, out, op == Op::transpose});
    }
  }
  /// The ranges are those of `rows.offset`; those of `dy.offset` are the same, and are not read.
  void grouped_gemm_weights(const Rows<DeviceBackend>& rows, const Rows<DeviceBackend>& dy,
                            Matrix<DeviceBackend> dw) {
    detail::device::require_grouped_weights(rows, dy, dw);
    if (detail::device::even(rows) && detail::device::even(dy)) {
      const Index height = rows.x.cols;  // of an expert's matrix
      products<true>(Op::transpose, Op::none, T(1), rows.x.top(rows.each),
                     rows.each * rows.x.stride, dy.x.top(rows.each), rows.each * dy.x.stride, T(1),
                     dw.top(height), height * dw.stride, rows.experts());
      return;
    }
    if constexpr (GroupedLeaf<L, DeviceBackend>) {
      leaf_.grouped_gemm_weights(rows, dy, dw);
    } else if constexpr (requires { this->weights_product(rows, dy, dw); }) {
      this->weights_product(rows, dy, dw);
    } else {
      for_each(dw.rows, dw.cols, detail::device::GroupedWeights<DeviceBackend>{rows, dy, dw});
    }
  }

  std::size_t sort_pairs_bytes(Index n) const { return leaf_.sort_pairs_bytes(n); }
  void sort_pairs(IntVector<DeviceBackend> keys, IntVector<DeviceBackend> values, int bits,
                  Scratch<DeviceBackend> scratch) {
    if (values.size != keys.size || bits < 0 || bits > 31) {
      throw_shape("moxie::DeviceBackend::sort_pairs: ", keys.size, " keys of ", bits, " bits and ",
                  values.size, " values, expected as many of both and at most 31 bits");
    }
    require_scratch("sort_pairs", scratch, sort_pairs_bytes(keys.size));
    leaf_.sort_pairs(keys.data, values.data, keys.size, bits, scratch.data);
  }

  std::size_t exclusive_scan_bytes(Index n) const { return leaf_.exclusive_scan_bytes(n); }
  void exclusive_scan(ConstIntVector<DeviceBackend> in, IntVector<DeviceBackend> out,
                      Scratch<DeviceBackend> scratch) {
    if (in.size != out.size) {
      throw_shape("moxie::DeviceBackend::exclusive_scan: in has ", in.size, " elements, out ",
                  out.size, ", expected the same");
    }
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

  static void require_product(const char* who, Op op_a, Op op_b,
                              const ConstMatrix<DeviceBackend>& a,
                              const ConstMatrix<DeviceBackend>& b,
                              const ConstMatrix<DeviceBackend>& c) {
    const Index rows = op_a == Op::none ? a.rows : a.cols;
    const Index inner = op_a == Op::none ? a.cols : a.rows;
    const Index inner_b = op_b == Op::none ? b.rows : b.cols;
    const Index cols = op_b == Op::none ? b.cols : b.rows;
    if (inner != inner_b || c.rows != rows || c.cols != cols) {
      throw_shape("moxie::DeviceBackend::", who, ": op(a) is [", rows, " x ", inner,
                  "], op(b) is [", inner_b, " x ", cols, "], c is [", c.rows, " x ", c.cols, "]");
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
  template <bool may_round>
  void products(Op op_a, Op op_b, T alpha, ConstMatrix<DeviceBackend> a, Index stride_a,
                ConstMatrix<DeviceBackend> b, Index stride_b, T beta, Matrix<DeviceBackend> c,
                Index stride_c, Index count) {
    const Index inner = op_a == Op::none ? a.cols : a.rows;
    const T* const right = b.data;
    const T* const left = a.data;
    if constexpr (may_round && RoundingLeaf<L, T>) {
      leaf_.rounded_gemm_strided(op_b, op_a, c.cols, c.rows, inner, alpha, right, leading(b),
                                 stride_b, left, leading(a), stride_a, beta, c.data, leading(c),
                                 stride_c, count);
    } else {
      leaf_.gemm_strided(op_b, op_a, c.cols, c.rows, inner, alpha, right, leading(b), stride_b,
                         left, leading(a), stride_a, beta, c.data, leading(c), stride_c, count);
    }
  }

  L leaf_;
};

}  // namespace moxie
