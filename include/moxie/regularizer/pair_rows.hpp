#pragma once

#include "moxie/routing/tensors.hpp"

namespace moxie::detail {

/// The pairs of a pass that count: both are rows of it, and neither is padding.
template <Backend B>
struct PairRows {
  ConstIntMatrix<B> pairs;  // [N, 2]
  ConstIntVector<B> mask;
  Index tokens;

  MOXIE_HD Index a(Index pair) const { return pairs(pair, 0); }
  MOXIE_HD Index b(Index pair) const { return pairs(pair, 1); }
  MOXIE_HD bool counts(Index pair) const { return is_token(a(pair)) && is_token(b(pair)); }

 private:
  MOXIE_HD bool is_token(Index t) const { return t >= 0 && t < tokens && !(mask && mask[t] == 0); }
};
template <Backend B>
PairRows<B> pair_rows(const Context<B>& ctx, const RoutingShape& shape) {
  return {ctx.pairs, ctx.mask, shape.tokens};
}

/// Gradients of pairs are added by blocks of tokens: each block reads all pairs and adds what belongs
/// to its own tokens, so that a token in several pairs has one order of sums and needs no atomics.
inline constexpr Index pair_blocks = 64;

/// d_probs += what `term.add_a` and `term.add_b` (token a, token b, d) add to the gradient of one of
/// the two.
template <Backend B, class Term>
struct PairBackward {
  static constexpr bool one_level = Term::one_level;
  PairRows<B> rows;
  Term term;
  Matrix<B> d_probs;

  MOXIE_HD MOXIE_INLINE void operator()(Index block) const {
    const Index first = rows.tokens * block / pair_blocks;
    const Index last = rows.tokens * (block + 1) / pair_blocks;
    for (Index pair = 0; pair < rows.pairs.rows; ++pair) {
      const Index a = rows.a(pair);
      const Index b = rows.b(pair);
      const bool has_a = a >= first && a < last;
      const bool has_b = b >= first && b < last;
      if (!(has_a || has_b) || !rows.counts(pair)) continue;
      if (has_a) term.add_a(a, b, d_probs.row(a));
      if (has_b) term.add_b(a, b, d_probs.row(b));
    }
  }
};

}  // namespace moxie::detail
