#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

/// What a backend is: a scalar type, a memory space, and the primitives below. Everything else (softmax,
/// attention, routing, experts, training) is written over them once, as named functors that any backend runs;
/// what a profile shows to matter gets a faster twin (ops/accelerate.hpp).
///
/// Laws (checked by the suite on every backend):
///  * every primitive equals the double-precision loop within the tolerance of its scalar;
///  * sorts are stable; the same call gives the same bits, whatever the number of threads;
///  * primitives only enqueue: nothing blocks the host but `synchronize` and the copies that name the host;
///  * no primitive allocates: those that need memory take it as `Scratch`, and say how much beforehand.
namespace moxie {

namespace detail {
/// Stand-ins that let the concept ask for members that take functors.
struct NoElement {
  MOXIE_HD void operator()(Index) const {}
  MOXIE_HD void operator()(Index, Index) const {}
};
template <class T>
struct NoTerm {
  MOXIE_HD T operator()(Index, Index) const { return T(0); }
};
template <class B>
concept BackendTypes = requires {
  typename B::Scalar;  // parameters, gradients, routing, losses
  typename B::Store;   // rows inside experts
  typename B::Space;   // HostSpace or DeviceSpace
  {
    B::batch_invariant
    } -> std::convertible_to<bool>;  // are a row's bits independent of the batch?
};
template <class B>
concept BackendMemory = requires(B& b, void* p, const void* q, std::size_t n, Vector<B> v,
                                 typename B::Scalar s) {
  { b.allocate(n) } -> std::same_as<void*>;  // aligned to 256 bytes
  b.deallocate(p, n);
  b.copy(p, q, n);            // inside the backend's memory
  b.copy_from_host(p, q, n);  // the two copies block
  b.copy_to_host(p, q, n);
  b.fill(v, s);
  b.synchronize();
};
template <class B>
concept BackendLoops = requires(B& b, Index n, NoElement f, NoTerm<typename B::Scalar> term,
                                Vector<B> out, Scratch<B> scratch) {
  // f(i) for each i < n, or f(i, j) for each i < rows, j < cols, in any order; writes of different indices
  // never overlap. `grain`: at least so many indices a task (rows in the second form).
  b.for_each(n, f);
  b.for_each(n, f, n);
  b.for_each(n, n, f);
  // out[c] += sum over r of f(r, c): fixed chunks of 256 rows, the chunks' sums added in ascending order.
  { b.column_sums_bytes(n, n) } -> std::same_as<std::size_t>;
  b.column_sums(n, n, term, out, scratch);
};
template <class B>
concept BackendProducts = requires(B& b, typename B::Scalar s, ConstMatrix<B> a, Matrix<B> c,
                                   ConstBatched<B> ab, Batched<B> cb, Rows<B> rows) {
  // c = alpha op(a) op(b) + beta c. Accumulates in Scalar; beta == 0 never reads c. The factors are never
  // rounded; LayerProduct and the products of experts may round theirs where the backend was told to.
  b.gemm(Op::none, Op::none, s, a, a, s, c);
  b.batched_gemm(Op::none, Op::none, s, ab, ab, s, cb);
  // out[r, :] = rows(r, :) op(w_e), for each row r of each expert e. `w` stacks the experts' matrices along
  // its rows: [E*K, N] for Op::none; [E*N, K] for Op::transpose. Rows past the last are not written.
  b.grouped_gemm(rows, Op::none, a, c);
  // dw_e += sum over the rows r of e of rows(r, :)^T dy(r, :);  dw: [E*K, N]. An empty expert costs nothing.
  b.grouped_gemm_weights(rows, rows, c);
};
template <class B>
concept BackendSorts = requires(B& b, Index n, int bits, IntVector<B> i, ConstIntVector<B> ci,
                                Scratch<B> scratch) {
  // Sorts keys ascending and takes the values along: stable, keys in [0, 2^bits).
  { b.sort_pairs_bytes(n) } -> std::same_as<std::size_t>;
  b.sort_pairs(i, i, bits, scratch);
  { b.exclusive_scan_bytes(n) } -> std::same_as<std::size_t>;
  b.exclusive_scan(ci, i, scratch);  // may be in place
};
}  // namespace detail

template <class B>
concept Backend = detail::BackendTypes<B> && detail::BackendMemory<B> && detail::BackendLoops<B> &&
    detail::BackendProducts<B> && detail::BackendSorts<B>;

/// Rows that one partial sum of `column_sums` covers: part of the result, since sums are not associative.
inline constexpr Index sum_chunk = 256;

}  // namespace moxie
