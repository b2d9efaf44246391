#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/core/parameters.hpp"
#include "moxie/ops/activation.hpp"

namespace moxie {

namespace detail {
struct NoWeightCopies {};
/// Elements between rows of `cols` elements: rows that lie a multiple of 1 KiB apart would displace each other from a cache, so
/// they get 64 bytes more.
template <class T>
constexpr Index row_stride(Index cols) {
  constexpr Index size = static_cast<Index>(sizeof(T));
  return cols * size % 1024 == 0 ? cols + 64 / size : cols;
}

template <class B>
struct WeightCopiesOf {
  using type = NoWeightCopies;
};
template <class B>
requires requires { typename B::ExpertCopies; }
struct WeightCopiesOf<B> {
  using type = typename B::ExpertCopies;
};
}  // namespace detail

/// Weights of a layer's experts, an entry [E, D, H] of its parameters, and what the backend keeps beside them (packed copies).
/// Lives with the layer; copies of it share what is kept.
template <Backend B>
struct ExpertWeights {
  typename Parameters<B>::Id id = 0;
  [[no_unique_address]] typename detail::WeightCopiesOf<B>::type copies{};

  ConstMatrix<B> value(const Parameters<B>& p) const { return p.value(id); }
};

/// What the products of experts work in.
template <Backend B>
struct ExpertMemory {
  Scratch<B> working;
  Scratch<B> packed;  ///< for weights that a training pass packs; may be empty
  int workers = 0;    ///< that `working` is cut for
  /// weights are worth a copy that outlives the pass: it will not be followed by an update
  bool keep = false;
  bool narrow = false;  ///< that copy may be narrower than the weights
};

/// What follows a product, by element: the four ends there are. Each has `whole`, a pass over the result, and `part`, the same
/// for some columns of a row, for a backend that does it while they are in cache; `other` is what it reads or writes beside
/// the result.
struct NoEnd {
  template <Backend B>
  void whole(B&, ConstIntVector<B>, Matrix<B>) const {}
};
/// out += bias[e].
template <Backend B>
struct BiasEnd {
  ConstMatrix<B> bias;
  Matrix<B> out;

  void whole(B& b, ConstIntVector<B> offset, Matrix<B> to) const { add_bias(b, bias, offset, to); }
  MOXIE_HD MOXIE_INLINE void part(Index e, Index r, Index col, Index n) const {
    const auto* const add = bias.row(e) + col;
    auto* const to = out.row(r) + col;
    detail::row_map(n, to, [=](Index j) { return to[j] + add[j]; });
  }
};
/// pre += bias[e] and act = A(pre); without `keep_pre`, act = A(pre + bias[e]), which may be the same memory.
template <Backend B, class A>
struct BiasActivationEnd {
  ConstMatrix<B> bias;
  Matrix<B> pre, act;
  bool keep_pre = true;

  void whole(B& b, ConstIntVector<B> offset, Matrix<B> out) const {
    bias_activation<A>(b, bias, offset, out, act, keep_pre);
  }
  MOXIE_HD MOXIE_INLINE void part(Index e, Index r, Index col, Index n) const {
    const auto* const add = bias.row(e) + col;
    auto* const in = pre.row(r) + col;
    auto* const out = act.row(r) + col;
    if (keep_pre) {
      detail::row_map(n, in, [=](Index j) { return in[j] + add[j]; });
      detail::row_map(n, out, [=](Index j) { return A::value(in[j]); });
    } else {
      detail::row_map(n, out, [=](Index j) { return A::value(in[j] + add[j]); });
    }
  }
  ConstMatrix<B> other() const { return act; }
};
/// d *= A'(pre).
template <Backend B, class A>
struct ActivationBackwardEnd {
  ConstMatrix<B> pre;
  Matrix<B> d;

  void whole(B& b, ConstIntVector<B> offset, Matrix<B> out) const {
    activation_backward<A>(b, offset, pre, out);
  }
  MOXIE_HD MOXIE_INLINE void part(Index /*e*/, Index r, Index col, Index n) const {
    const auto* const in = pre.row(r) + col;
    auto* const out = d.row(r) + col;
    detail::row_map(n, out, [=](Index j) { return out[j] * A::derivative(in[j]); });
  }
  ConstMatrix<B> other() const { return pre; }
};

/// out[r, :] = rows(r, :) op(w_e) for each row r of each expert e, and then `end`, which writes to `out` where its own views
/// say so. Cost: R in out multiply-adds.
struct ExpertProduct {
  /// Takes the memory of this operation and of its products of weights, for two sets of weights and up to `rows` rows.
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const Parameters<B>& p, const ExpertWeights<B>& one,
            const ExpertWeights<B>& two, Index rows, ExpertMemory<B>& memory) const {
    memory = {};  // of an earlier binding, which may have had more
    if constexpr (requires { b.bind(*this, arena, p, one, two, rows, memory); })
      b.bind(*this, arena, p, one, two, rows, memory);
  }
  template <Backend B, class End>
  void operator()(B& b, const Parameters<B>& p, const ExpertWeights<B>& w,
                  const ExpertMemory<B>& memory, const Rows<B>& rows, Op op, Matrix<B> out,
                  const End& end) const {
    detail::run_or_generic(*this, b, p, w, memory, rows, op, out, end);
  }
  template <Backend B, class End>
  static void generic(B& b, const Parameters<B>& p, const ExpertWeights<B>& w,
                      const ExpertMemory<B>&, const Rows<B>& rows, Op op, Matrix<B> out,
                      const End& end) {
    b.grouped_gemm(rows, op, w.value(p), out);
    end.whole(b, rows.offset, out);
  }
};
inline constexpr ExpertProduct expert_product{};

/// A product of experts: out[r, :] = rows(r, :) op(w_e), then `end`.
template <Backend B, class End>
struct ExpertStep {
  const ExpertWeights<B>& w;
  Rows<B> rows;
  Op op;
  Matrix<B> out;
  [[no_unique_address]] End end;
};

/// Two products of the same `offset`: row r of the second is row r of what the first gives (`out`, or what its end writes),
/// so that a backend may do both for some rows while these are in cache. What they write overlaps nothing else that they read.
/// A backend that overrides ExpertProduct says what becomes of pairs as well.
struct ExpertPair {
  template <Backend B, class One, class Two>
  void operator()(B& b, const Parameters<B>& p, const ExpertMemory<B>& memory,
                  const ExpertStep<B, One>& one, const ExpertStep<B, Two>& two) const {
    detail::run_or_generic(*this, b, p, memory, one, two);
  }
  template <Backend B, class One, class Two>
  static void generic(B& b, const Parameters<B>& p, const ExpertMemory<B>& memory,
                      const ExpertStep<B, One>& one, const ExpertStep<B, Two>& two) {
    expert_product(b, p, one.w, memory, one.rows, one.op, one.out, one.end);
    expert_product(b, p, two.w, memory, two.rows, two.op, two.out, two.end);
  }
};
inline constexpr ExpertPair expert_pair{};

/// dw_e += sum over the rows r of e of rows(r, :)^T dy(r, :).
struct ExpertWeightsProduct {
  template <Backend B>
  void operator()(B& b, const ExpertMemory<B>& memory, const Rows<B>& rows, const Rows<B>& dy,
                  Matrix<B> dw) const {
    detail::run_or_generic(*this, b, memory, rows, dy, dw);
  }
  template <Backend B>
  static void generic(B& b, const ExpertMemory<B>&, const Rows<B>& rows, const Rows<B>& dy,
                      Matrix<B> dw) {
    b.grouped_gemm_weights(rows, dy, dw);
  }
};
inline constexpr ExpertWeightsProduct expert_weights_product{};

}  // namespace moxie
