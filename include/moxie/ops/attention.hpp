#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/ops/softmax.hpp"

namespace moxie {

/// Sizes of an attention: each of `queries` rows of an image looks at that image's `keys` rows, in
/// every head apart.
struct AttentionShape {
  Index images = 0;
  Index queries = 0;  ///< tokens that ask, per image
  Index keys = 0;     ///< tokens that are looked at, per image
  Index heads = 1;
  Index width = 0;   ///< columns of a head
  double scale = 1;  ///< of the scores: 1 / sqrt(width)
};

/// What an attention keeps from its forward to its backward, and works in. A backend with a twin
/// decides what that is (its `bind`); the generic form keeps the weights p = softmax(scale q k^T).
template <Backend B>
struct AttentionMemory {
  Matrix<B> kept;     ///< generic: p [images * heads * queries, keys]
  Matrix<B> working;  ///< generic: the gradient of p, the same shape; used by the backward only
};

namespace detail {
/// The heads of x [images * tokens, heads * width], each a [tokens, width] matrix.
template <class T, class Space>
BatchView<T, Space> heads_of(MatrixView<T, Space> x, const AttentionShape& s) {
  const Index tokens = s.images > 0 ? x.rows / s.images : 0;
  return {{x.data, tokens, s.width, x.stride}, s.images, tokens * x.stride, s.heads, s.width};
}
/// The weights of each image and head: [queries, keys] matrices, one after the other.
template <class T, class Space>
BatchView<T, Space> weights_of(MatrixView<T, Space> p, const AttentionShape& s) {
  const Index one = s.queries * s.keys;
  return {{p.data, s.queries, s.keys}, s.images, s.heads * one, s.heads, one};
}
}  // namespace detail

/// o = softmax(scale q k^T) v, per image and head.
/// q, o: [images * queries, heads * width]; k, v: [images * keys, heads * width], any row stride,
/// so that q, k and v can be column blocks of one matrix. Cost: O(images * queries * keys * heads *
/// width).   Source: Vaswani et al. 2017.
struct Attention {
  /// Takes the memory of this operation and of its backward; the scratch part goes with the
  /// caller's Scope.
  template <Backend B>
  void bind(B& b, Arena<B>& arena, const AttentionShape& shape, AttentionMemory<B>& memory) const {
    if constexpr (requires { b.bind(*this, arena, shape, memory); }) {
      b.bind(*this, arena, shape, memory);
    } else {
      generic_bind(arena, shape, memory);
    }
  }
  template <Backend B>
  void operator()(B& b, const AttentionShape& shape, ConstMatrix<B> q, ConstMatrix<B> k,
                  ConstMatrix<B> v, const AttentionMemory<B>& memory, Matrix<B> o) const {
    detail::run_or_generic(*this, b, shape, q, k, v, memory, o);
  }
  template <Backend B>
  static void generic_bind(Arena<B>& arena, const AttentionShape& s, AttentionMemory<B>& memory) {
    using T = typename B::Scalar;
    const Index rows = s.images * s.heads * s.queries;
    memory.kept = arena.template saved<T>(rows, s.keys);
    memory.working = {};
    if (arena.wants_input()) memory.working = arena.template scratch<T>(rows, s.keys);
  }
  template <Backend B>
  static void generic(B& b, const AttentionShape& s, ConstMatrix<B> q, ConstMatrix<B> k,
                      ConstMatrix<B> v, const AttentionMemory<B>& memory, Matrix<B> o) {
    using T = typename B::Scalar;
    const Matrix<B> p = memory.kept.top(s.images * s.heads * s.queries);
    const Batched<B> scores = detail::weights_of(p, s);
    b.batched_gemm(Op::none, Op::transpose, static_cast<T>(s.scale),
                   ConstBatched<B>(detail::heads_of(q, s)), ConstBatched<B>(detail::heads_of(k, s)),
                   T(0), scores);
    softmax_rows(b, ConstMatrix<B>(p), p);
    b.batched_gemm(Op::none, Op::none, T(1), ConstBatched<B>(scores),
                   ConstBatched<B>(detail::heads_of(v, s)), T(0), detail::heads_of(o, s));
  }
};
inline constexpr Attention attention{};

/// dq, dk, dv (overwritten) from d_o, the gradient of o; shapes as in Attention, memory as its
/// forward left it.
struct AttentionBackward {
  template <Backend B>
  void operator()(B& b, const AttentionShape& shape, ConstMatrix<B> q, ConstMatrix<B> k,
                  ConstMatrix<B> v, ConstMatrix<B> d_o, const AttentionMemory<B>& memory,
                  Matrix<B> dq, Matrix<B> dk, Matrix<B> dv) const {
    detail::run_or_generic(*this, b, shape, q, k, v, d_o, memory, dq, dk, dv);
  }
  template <Backend B>
  static void generic(B& b, const AttentionShape& s, ConstMatrix<B> q, ConstMatrix<B> k,
                      ConstMatrix<B> v, ConstMatrix<B> d_o, const AttentionMemory<B>& memory,
                      Matrix<B> dq, Matrix<B> dk, Matrix<B> dv) {
    using T = typename B::Scalar;
    const Index rows = s.images * s.heads * s.queries;
    const ConstMatrix<B> p = memory.kept.top(rows);
    const Matrix<B> dp = memory.working.top(rows);
    const auto heads = [&s](auto x) { return detail::heads_of(x, s); };
    const ConstBatched<B> weights = detail::weights_of(p, s);
    const Batched<B> d_weights = detail::weights_of(dp, s);
    const auto scale = static_cast<T>(s.scale);
    b.batched_gemm(Op::transpose, Op::none, T(1), weights, ConstBatched<B>(heads(d_o)), T(0),
                   heads(dv));
    b.batched_gemm(Op::none, Op::transpose, T(1), ConstBatched<B>(heads(d_o)),
                   ConstBatched<B>(heads(v)), T(0), d_weights);
    softmax_rows_backward(b, p, ConstMatrix<B>(dp), dp, false);
    b.batched_gemm(Op::none, Op::none, scale, ConstBatched<B>(d_weights), ConstBatched<B>(heads(k)),
                   T(0), heads(dq));
    b.batched_gemm(Op::transpose, Op::none, scale, ConstBatched<B>(d_weights),
                   ConstBatched<B>(heads(q)), T(0), heads(dk));
  }
};
inline constexpr AttentionBackward attention_backward{};

}  // namespace moxie
