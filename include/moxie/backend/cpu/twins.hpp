#pragma once

#include <concepts>

#include "moxie/backend/cpu/attention.hpp"
#include "moxie/backend/cpu/expert_product.hpp"
#include "moxie/backend/cpu/options.hpp"
#include "moxie/backend/cpu/sinkhorn.hpp"
#include "moxie/core/error.hpp"

namespace moxie {

template <std::floating_point T>
class CpuBackend;

namespace detail {

/// Where faster twins of operations live: members `run(Operation, arguments...)`, one for each
/// operation, found by Accelerates (ops/accelerate.hpp). A base of CpuBackend, so that its bodies
/// see all of the backend through `self()` and its interface stays a list of primitives.
///
/// A ProductEngine turns off the twins that bring products of their own: it is there to be a second
/// opinion.
template <class T>
class CpuTwins {
 public:
  using ExpertCopies = CpuWeightCopies;

  template <class B>
  void bind(const Attention&, Arena<B>& arena, const AttentionShape& shape,
            AttentionMemory<B>& memory) const {
    if (self().product() != nullptr) return Attention::generic_bind(arena, shape, memory);
    CpuAttention<T>{self(), shape}.bind(arena, memory);
  }
  template <class B>
  void run(const Attention&, const AttentionShape& shape, MatrixView<const T> q,
           MatrixView<const T> k, MatrixView<const T> v, const AttentionMemory<B>& memory,
           MatrixView<T> o) {
    if (self().product() != nullptr)
      return Attention::generic(static_cast<B&>(*this), shape, q, k, v, memory, o);
    check_workers(static_cast<int>(memory.working.rows));
    CpuAttention<T>{self(), shape}.forward(q, k, v, memory.kept, memory.working, o);
  }
  template <class B>
  void run(const AttentionBackward&, const AttentionShape& shape, MatrixView<const T> q,
           MatrixView<const T> k, MatrixView<const T> v, MatrixView<const T> d_o,
           const AttentionMemory<B>& memory, MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv) {
    if (self().product() != nullptr)
      return AttentionBackward::generic(static_cast<B&>(*this), shape, q, k, v, d_o, memory, dq, dk,
                                        dv);
    check_workers(static_cast<int>(memory.working.rows));
    CpuAttention<T>{self(), shape}.backward(q, k, v, d_o, memory.kept, memory.working, dq, dk, dv);
  }
  template <class B>
  void bind(const ExpertProduct&, Arena<B>& arena, const Parameters<B>& p,
            const ExpertWeights<B>& one, const ExpertWeights<B>& two, Index rows,
            ExpertMemory<B>& memory) const {
    if (self().product() != nullptr) return;
    CpuExpertProduct<T>{self()}.bind(arena, p, one, two, rows, memory);
  }
  template <class B, class End>
  void run(const ExpertProduct&, const Parameters<B>& p, const ExpertWeights<B>& w,
           const ExpertMemory<B>& memory, const Rows<B>& rows, Op op, MatrixView<T> out,
           const End& end) {
    if (self().product() != nullptr) {
      self().grouped_gemm(rows, op, w.value(p), out);
      return end_of_experts(rows.offset, out.cols, tile_end(end));
    }
    check_workers(memory.workers);
    const CpuExpertProduct<T> twin{self()};
    if constexpr (std::same_as<T, float>) {
      if (memory.narrow && op == Op::none)
        return self().copies().narrow()->product(
            {self().executor(), self().level(), factor_of(rows, Op::none), rows.offset, rows.x.cols,
             twin.narrowed(p, w, rows.experts()), memory.working, out, tile_end(end)});
    }
    twin.product(factors(twin, p, w, memory, rows, op, out, end), rows.offset,
                 {memory.working, memory.packed});
  }
  template <class B, class One, class Two>
  void run(const ExpertPair&, const Parameters<B>& p, const ExpertMemory<B>& memory,
           const ExpertStep<B, One>& one, const ExpertStep<B, Two>& two) {
    if (self().product() != nullptr || memory.narrow)
      return ExpertPair::generic(static_cast<B&>(*this), p, memory, one, two);
    check_workers(memory.workers);
    const CpuExpertProduct<T> twin{self()};
    twin.pair(factors(twin, p, one.w, memory, one.rows, one.op, one.out, one.end),
              factors(twin, p, two.w, memory, two.rows, two.op, two.out, two.end), one.rows.offset,
              {memory.working, memory.packed});
  }
  template <class B>
  void run(const ExpertWeightsProduct&, const ExpertMemory<B>& memory, const Rows<B>& rows,
           const Rows<B>& dy, MatrixView<T> dw) {
    // Scaled rows come as gradients, not as input.
    if (self().product() != nullptr || rows.scale)
      return ExpertWeightsProduct::generic(static_cast<B&>(*this), memory, rows, dy, dw);
    check_workers(memory.workers);
    if (dw.cols != dy.x.cols)
      throw_shape("moxie::CpuBackend: product of experts' weights: dw has ", dw.cols,
                  " columns, expected ", dy.x.cols, " as dy");
    CpuExpertProduct<T>{self()}.weights(factor_of(rows, Op::transpose), factor_of(dy, Op::none),
                                        rows.offset, rows.x.cols, memory.working, dw);
  }

  template <class B>
  void run(const Sinkhorn&, MatrixView<const T> logits, ConstIntVector<B> mask,
           const SinkhornOptions& options, const SinkhornMemory<B>& memory, MatrixView<T> plan) {
    cpu_sinkhorn<B>(static_cast<B&>(*this), logits, mask, options, memory, plan);
  }

 protected:
  template <class B>
  static Factor<T> factor_of(const Rows<B>& rows, Op op) {
    return {rows.x.data, rows.x.stride, op, rows.index.data, rows.scale.data};
  }
  template <class B, class End>
  static ExpertFactors<T> factors(const CpuExpertProduct<T>& twin, const Parameters<B>& p,
                                  const ExpertWeights<B>& w, const ExpertMemory<B>& memory,
                                  const Rows<B>& rows, Op op, MatrixView<T> out, const End& end) {
    return {factor_of(rows, Op::none),
            rows.x.cols,
            w.value(p),
            op,
            twin.packed(p, w, op, memory.keep, rows.experts()),
            rows.experts(),
            out,
            tile_end(end)};
  }
  /// `end` for the rows of all experts: what follows the product of an engine is what follows our own, compiled once.
  void end_of_experts(VectorView<const std::int32_t> offset, Index cols, const TileEnd& end) const {
    if (end.call == nullptr) return;
    self().parallel(offset.size - 1, [&](Index e, int) {
      end.call(end.end, self().level(), e, offset[e], offset[e + 1] - offset[e], 0, cols);
    });
  }
  /// @throws config_error if the executor has other workers than when the tape was made, whose memory is cut by worker.
  void check_workers(int made_for) const {
    if (self().workers() != made_for)
      throw_config("moxie::CpuBackend: the executor has ", self().workers(),
                   " workers, the tape was made for ", made_for);
  }
  const CpuBackend<T>& self() const { return static_cast<const CpuBackend<T>&>(*this); }
};

}  // namespace detail
}  // namespace moxie
