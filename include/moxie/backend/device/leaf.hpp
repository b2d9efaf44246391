#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "moxie/core/bf16.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

/// What `DeviceBackend` asks of a device: memory, the order of work, and the few operations for
/// which every platform has its own library. All else is written once, as functors over `policy()`.
///
/// Contract of every member:
///  * it enqueues behind what was enqueued before it and returns; only `synchronize`,
///  `copy_from_host` and
///    `copy_to_host` block, until their own work and all before it is done;
///  * it reads and writes its pointers when its turn comes, never at the call;
///  * it allocates nothing: temporaries lie in `scratch`, whose size its `_bytes` function told
///  before and
///    which is aligned as `allocate` aligns.
namespace moxie {

namespace detail {
template <class L>
concept LeafMemory = requires(L& leaf, void* p, const void* q, std::size_t bytes) {
  typename L::Space;
  { leaf.allocate(bytes) } -> std::same_as<void*>;  // aligned to 256 bytes; throws, never null
  leaf.deallocate(p, bytes);
  leaf.copy(p, q, bytes);  // both in the device's memory
  leaf.copy_from_host(p, q, bytes);
  leaf.copy_to_host(p, q, bytes);
  leaf.synchronize();
};
template <class L>
concept LeafAlgorithms = requires(L& leaf, std::int32_t* out, const std::int32_t* in, Index n,
                                  int bits, std::byte* scratch) {
  // A Thrust execution policy. Only algorithms that need no temporaries and return no value run
  // under it.
  leaf.policy();
  // Stable, ascending by the low `bits` of the keys, in place.
  { leaf.sort_pairs_bytes(n) } -> std::same_as<std::size_t>;
  leaf.sort_pairs(out, out, n, bits, scratch);
  // out[i] = in[0] + ... + in[i - 1]; `out` may be `in`.
  { leaf.exclusive_scan_bytes(n) } -> std::same_as<std::size_t>;
  leaf.exclusive_scan(in, out, n, scratch);
};
template <class L, class T>
concept LeafProducts = requires(L& leaf, Op op, Index n, T scalar, const T* in, Index leading,
                                Index stride, T* out) {
  // The argument list of BLAS, matrices stored by columns: for each q < batch
  //   C_q[m, n] = alpha op(A_q)[m, k] op(B_q)[k, n] + beta C_q,  X_q = X + q * stride.
  // Leading dimensions are at least the rows of a matrix as stored. beta == 0 never reads C.
  leaf.gemm_strided(op, op, /*m=*/n, /*n=*/n, /*k=*/n, /*alpha=*/scalar, /*A=*/in, leading, stride,
                    /*B=*/in, leading, stride, /*beta=*/scalar, /*C=*/out, leading, stride,
                    /*batch=*/n);
  // Are the bits of a column of C independent of how many columns there are?
  { L::batch_invariant } -> std::convertible_to<bool>;
};
}  // namespace detail

template <class L, class T>
concept Leaf = detail::LeafMemory<L> && detail::LeafAlgorithms<L> && detail::LeafProducts<L, T>;

/// A leaf that multiplies faster by factors of fewer bits, if it is told to. `DeviceBackend` then
/// asks so for the products of layers and of experts; all others stay exact. State it beside the leaf
/// by static_assert, so that a changed signature cannot fall back in silence.
template <class L, class T>
concept RoundingLeaf = requires(L& leaf, Op op, Index n, T scalar, const T* in, T* out) {
  // gemm_strided
  leaf.rounded_gemm_strided(op, op, n, n, n, scalar, in, n, n, in, n, n, scalar, out, n, n, n);
};

/// What follows the sums of a strided product, stored by columns, before they are written: a bias,
/// [m] for each of the batch, and then nothing or an activation.
template <class T>
struct StridedEnd {
  const T* bias = nullptr;
  Index bias_stride = 0;
  bool gelu = false;  ///< Gelu, which is the tanh form
  T* pre = nullptr;   ///< gets what the activation is applied to, stored as C is; null: nobody asks
  Index pre_leading = 0;
  Index pre_stride = 0;
};

/// A leaf whose library may do so with products to float, of factors of float or bf16.
template <class L>
concept FusingLeaf = requires(L& leaf, Op op, Index n, const float* in, const bf16* narrow,
                              float* out, const StridedEnd<float>& end) {
  // gemm_strided with alpha 1 and beta 0; false: it is not offered, and nothing was done
  {
    leaf.fused_gemm_strided(op, op, n, n, n, in, n, n, in, n, n, out, n, n, n, end)
    } -> std::same_as<bool>;
  {
    leaf.fused_gemm_strided(op, op, n, n, n, narrow, n, n, narrow, n, n, out, n, n, n, end)
    } -> std::same_as<bool>;
};

/// A leaf whose platform has grouped products of its own; `DeviceBackend` then uses them instead of
/// its functors. Contracts: `grouped_gemm` and `grouped_gemm_weights` of `Backend`. State it beside
/// the leaf by static_assert, so that a changed signature cannot fall back in silence.
template <class L, class B>
concept GroupedLeaf = requires(L& leaf, const Rows<B>& rows, Op op, ConstMatrix<B> w,
                               Matrix<B> out) {
  leaf.grouped_gemm(rows, op, w, out);
  leaf.grouped_gemm_weights(rows, rows, out);
};

}  // namespace moxie
