#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "moxie/backend/concept.hpp"
#include "moxie/backend/cuda/leaf.hpp"
#include "moxie/backend/device/device_backend.hpp"
#include "moxie/ops/gather_rows.hpp"

namespace moxie {

/// CudaLeaf whose ragged products of experts are cuBLAS's grouped ones instead of our kernels: a
/// second opinion on them, of fp32 or double.
///
/// cuBLAS wants the sizes of its groups on the host. So each product copies E + 1 numbers there, which
/// blocks, and takes memory for rows that it cannot gather and for addresses: no pass can be
/// captured.
class CudaGroupedLeaf : public CudaLeaf {
 public:
  using CudaLeaf::CudaLeaf;

  /// Backend::grouped_gemm.
  template <class B>
  void grouped_gemm(const Rows<B>& rows, Op op, ConstMatrix<B> w, Matrix<B> out) {
    if (rows.experts() < 1) return;
    const Plain<B> x(*this, rows);
    const std::vector<std::int32_t> offset = on_host(rows.offset);
    const Index height = w.rows / rows.experts();
    Groups<typename B::Scalar> groups;
    for (Index e = 0; e < rows.experts(); ++e) {
      const Index first = offset[static_cast<std::size_t>(e)];
      const Index count = offset[static_cast<std::size_t>(e) + 1] - first;
      groups.add({out.cols, count, rows.x.cols}, w.row(e * height), x.view.row(first),
                 out.row(first));
    }
    // by columns, as DeviceBackend's other products
    run(op, Op::none, groups, w.stride, x.view.stride, 0, out.stride);
  }
  /// Backend::grouped_gemm_weights.
  template <class B>
  void grouped_gemm_weights(const Rows<B>& rows, const Rows<B>& dy, Matrix<B> dw) {
    const Plain<B> x(*this, rows);
    const Plain<B> d(*this, {dy.x, dy.index, dy.scale, rows.offset, dy.rows});
    const std::vector<std::int32_t> offset = on_host(rows.offset);
    const Index height = rows.x.cols;
    Groups<typename B::Scalar> groups;
    for (Index e = 0; e < rows.experts(); ++e) {
      const Index first = offset[static_cast<std::size_t>(e)];
      const Index count = offset[static_cast<std::size_t>(e) + 1] - first;
      groups.add({dw.cols, height, count}, d.view.row(first), x.view.row(first),
                 dw.row(e * height));
    }
    run(Op::none, Op::transpose, groups, d.view.stride, x.view.stride, 1, dw.stride);
  }

 private:
  /// m, n and k of a product.
  struct Sizes {
    Index m, n, k;
  };
  /// Those of them that are not empty.
  template <class T>
  struct Groups {
    std::vector<std::int64_t> m, n, k;
    std::vector<const T*> a, b;
    std::vector<T*> c;

    void add(const Sizes& s, const T* a_e, const T* b_e, T* c_e) {
      if (s.m < 1 || s.n < 1 || s.k < 1) return;
      m.push_back(s.m);
      n.push_back(s.n);
      k.push_back(s.k);
      a.push_back(a_e);
      b.push_back(b_e);
      c.push_back(c_e);
    }
  };
  /// Memory for the time of a call, in the order of the stream.
  struct Block {
    Block(CudaLeaf& l, std::size_t n) : leaf(l), bytes(n), data(l.allocate(n)) {}
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() { leaf.deallocate(data, bytes); }
    CudaLeaf& leaf;
    std::size_t bytes;
    void* data;
  };
  /// Rows one after the other, copied if they do not lie so.
  template <class B>
  struct Plain {
    using T = typename B::Scalar;
    Plain(CudaGroupedLeaf& leaf, const Rows<B>& rows) : view(rows.x) {
      if (!rows.index && !rows.scale) return;
      copy.emplace(leaf, static_cast<std::size_t>(rows.rows * rows.x.cols) * sizeof(T));
      const Matrix<B> to(static_cast<T*>(copy->data), rows.rows, rows.x.cols);
      leaf.launch({.blocks = detail::device::blocks_of(rows.rows, 256), .threads = 256},
                  detail::cuda::for_each_index<detail::GatherRow<B>>, rows.rows,
                  detail::GatherRow<B>{rows, to});
      view = to;
    }
    std::optional<Block> copy;
    ConstMatrix<B> view;
  };

  template <class Space>
  std::vector<std::int32_t> on_host(VectorView<const std::int32_t, Space> offset) {
    std::vector<std::int32_t> host(static_cast<std::size_t>(offset.size));
    copy_to_host(host.data(), offset.data, host.size() * sizeof(std::int32_t));
    return host;
  }
  /// C = op_a(A) op_b(B) + beta C for each group.
  template <class T>
  void run(Op op_a, Op op_b, const Groups<T>& g, Index lda, Index ldb, std::type_identity_t<T> beta,
           Index ldc) {
    const std::size_t count = g.m.size();
    if (count == 0) return;
    const std::size_t bytes = count * sizeof(T*);
    const Block addresses(*this, 3 * bytes);
    auto* const at = static_cast<std::byte*>(addresses.data);
    copy_from_host(at, g.a.data(), bytes);
    copy_from_host(at + bytes, g.b.data(), bytes);
    copy_from_host(at + 2 * bytes, g.c.data(), bytes);
    blas().gemm_grouped(op_a, op_b, g.m, g.n, g.k, reinterpret_cast<const T* const*>(at), lda,
                        reinterpret_cast<const T* const*>(at + bytes), ldb, beta,
                        reinterpret_cast<T* const*>(at + 2 * bytes), ldc);
  }
};

/// A backend with those products.
template <class T>
using CudaGroupedBackend = DeviceBackend<T, CudaGroupedLeaf>;

static_assert(GroupedLeaf<CudaGroupedLeaf, CudaGroupedBackend<float>> &&
              GroupedLeaf<CudaGroupedLeaf, CudaGroupedBackend<double>>);

}  // namespace moxie
