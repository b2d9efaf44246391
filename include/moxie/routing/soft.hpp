#pragma once

#include "moxie/routing/tensors.hpp"

namespace moxie {

/// Soft routing tensors: every slot is a weighted mean of a group's tokens, every token's result a weighted mean of
/// the results of all slots. Nothing is chosen and nothing dropped. P slots an expert; column e * P + p of the matrices.
///
/// Source: Puigcerver et al., "From Sparse to Soft Mixtures of Experts", ICLR 2024.
template <Backend B>
struct SoftRouting {
  /// Gradients of a scalar loss with respect to the tensors of the same name.
  struct Gradients {
    Matrix<B> logits;    ///< [T, E*P]
    Matrix<B> dispatch;  ///< [T, E*P]
    Matrix<B> combine;   ///< [T, E*P]
    Matrix<B> probs;     ///< [T, E]

    /// Memory for all gradients of `r`, gone with the arena's Scope.
    void bind(Arena<B>& arena, const SoftRouting& r, const RoutingTraits&) {
      using T = typename B::Scalar;
      logits = arena.template scratch<T>(r.shape.tokens, r.logits.cols);
      dispatch = arena.template scratch<T>(r.shape.tokens, r.logits.cols);
      combine = arena.template scratch<T>(r.shape.tokens, r.logits.cols);
      probs = arena.template scratch<T>(r.shape.tokens, r.shape.experts);
    }
    /// The views for `r`'s pass; d(logits) and d(probs) zeroed. A dispatcher overwrites the others.
    Gradients begin(B& b, const SoftRouting& r) const {
      const Index tokens = r.shape.tokens;
      const Gradients g{logits.top(tokens), dispatch.top(tokens), combine.top(tokens),
                        probs.top(tokens)};
      b.fill(Vector<B>(g.logits.data, g.logits.size()), 0);
      b.fill(Vector<B>(g.probs.data, g.probs.size()), 0);
      return g;
    }
  };

  RoutingShape shape{};
  Matrix<B> logits;        ///< [T, E*P], noise included
  Matrix<B> dispatch;      ///< [T, E*P] columns sum to 1 over the tokens of a group
  Matrix<B> combine;       ///< [T, E*P] rows sum to 1
  Matrix<B> probs;         ///< [T, E] what combine gives to each expert
  ConstIntVector<B> mask;  ///< [T] of the pass: 0 = padding; empty: every token counts
  /// [1] index of the first logit that is not finite, or -1
  VectorView<std::int64_t, typename B::Space> status;
  Scratch<B> scratch;  ///< the router's own, within one call

  Index slots() const { return shape.experts > 0 ? logits.cols / shape.experts : 0; }

  /// Takes memory for up to `s.tokens` tokens; `s.capacity` is P.
  void bind(Arena<B>& arena, const RoutingShape& s, const RoutingTraits& traits) {
    using T = typename B::Scalar;
    shape = s;
    const Index columns = s.experts * s.capacity;
    logits = arena.template saved<T>(s.tokens, columns);
    dispatch = arena.template saved<T>(s.tokens, columns);
    combine = arena.template saved<T>(s.tokens, columns);
    probs = arena.template kept<T>(s.tokens, s.experts);
    status = arena.template kept<std::int64_t>(1);
    scratch = arena.scratch_bytes(traits.scratch_bytes);
    rows_ = s.rows;
  }
  /// The views for a pass of shape `s`, which fits into what was bound.
  void resize(const RoutingShape& s, bool /*with_noise*/) {
    shape = s;
    logits.rows = dispatch.rows = combine.rows = probs.rows = s.tokens;
  }
  /// Rows there is memory for.
  Index bound_rows() const { return rows_; }

 private:
  Index rows_ = 0;
};

}  // namespace moxie
