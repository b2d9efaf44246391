#pragma once

#include "moxie/regularizer/load_threshold.hpp"

namespace moxie::detail {

/// Noise below counts as none: what a difference of logits is divided by must have a finite inverse in float.
inline constexpr double least_noise = 1e-30;

/// A group's tokens are summed in so many parts at once: part of the result.
inline constexpr Index load_sum_parts = 16;

/// parts[g, part, e] = sum of term.of(t, threshold of t)(e) over the tokens t of the part. A part has whole tokens, since
/// the threshold, the dear part of it, is shared by all experts.
template <Backend B, class Term>
struct LoadPartSum {
  LoadThreshold<B> threshold;
  Term term;
  Index group;
  Vector<B> parts;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    const Index experts = threshold.noisy_logits.cols;
    const Index g = i / load_sum_parts;
    auto* own = parts.data + i * experts;
    for (Index e = 0; e < experts; ++e) own[e] = 0;
    for (Index t = g * group + i % load_sum_parts; t < (g + 1) * group; t += load_sum_parts) {
      const Index last = threshold(t);
      if (last < 0) continue;
      const auto of_token = term.of(t, last);
      row_map<half_strip>(experts, own, [=](Index e) { return own[e] + of_token(e); });
    }
  }
};
template <Backend B>
struct LoadFold {
  static constexpr bool one_level = true;
  ConstVector<B> parts;
  Index experts;
  Vector<B> sums;

  MOXIE_HD void operator()(Index i) const {
    typename B::Scalar sum = 0;
    for (Index part = 0; part < load_sum_parts; ++part)
      sum += parts[(i / experts * load_sum_parts + part) * experts + i % experts];
    sums[i] = sum;
  }
};

/// Room for the G * E sums of `accumulate_load` and for its parts, which follow them.
inline Index load_sums(const RoutingShape& s) noexcept {
  return s.groups() * s.experts * (1 + load_sum_parts);
}
/// The [G, E] sums alone.
template <class V>
V folded_load(V sums, const RoutingShape& s) {
  return sums.middle(0, s.groups() * s.experts);
}
template <Backend B, class Term>
void accumulate_load(B& b, const Context<B>& ctx, const SparseRouting<B>& r, const Term& term,
                     Vector<B> sums) {
  const Vector<B> folded = folded_load(sums, r.shape);
  const Vector<B> parts = sums.middle(folded.size, folded.size * load_sum_parts);
  b.for_each(r.shape.groups() * load_sum_parts,
             LoadPartSum<B, Term>{load_threshold(ctx, r), term, r.shape.group, parts}, 1);
  b.for_each(folded.size, LoadFold<B>{parts, r.shape.experts, folded});
}

}  // namespace moxie::detail
