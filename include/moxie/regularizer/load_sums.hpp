#pragma once

#include "moxie/regularizer/group_sums.hpp"
#include "moxie/regularizer/load_threshold.hpp"

namespace moxie::detail {

/// Noise below counts as none: what a difference of logits is divided by must have a finite inverse in float.
inline constexpr double least_noise = 1e-30;

/// term.of(t, threshold of t)(e) of a token t that counts. The threshold, the dear part of it, is shared by all experts.
template <Backend B, class Term>
struct LoadTerm {
  static constexpr bool whole_rows = true;
  LoadThreshold<B> threshold;
  Term term;

  struct Row {
    typename Term::Token token;
    bool counts;

    MOXIE_HD MOXIE_INLINE explicit operator bool() const { return counts; }
    MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index e) const { return token(e); }
  };
  MOXIE_HD MOXIE_INLINE Row of(Index t) const {
    const Index last = threshold(t);
    // made of padding too: a row that is one thing or another would not stay in registers
    return {term.of(t, last < 0 ? 0 : last), last >= 0};
  }
};

/// Room for the G * E sums of `accumulate_load` and for what it sums by.
inline Index load_sums(const RoutingShape& s) noexcept {
  return group_sums_size(token_sums(s, s.experts), true);
}
/// The [G, E] sums alone.
template <class V>
V folded_load(V sums, const RoutingShape& s) {
  return group_totals(sums, token_sums(s, s.experts));
}
template <Backend B, class Term>
void accumulate_load(B& b, const Context<B>& ctx, const SparseRouting<B>& r, const Term& term,
                     Vector<B> sums) {
  group_sums(b, token_sums(r.shape, r.shape.experts),
             LoadTerm<B, Term>{load_threshold(ctx, r), term}, sums);
}

}  // namespace moxie::detail
