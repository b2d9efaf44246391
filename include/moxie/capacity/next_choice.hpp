#pragma once

#include "moxie/capacity/overflow.hpp"

namespace moxie {

namespace detail {
/// What selection ranks the experts of a token by.
template <Backend B>
struct RankScores {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;
  ConstVector<B> bias;  // empty: none

  explicit RankScores(const SparseRouting<B>& r)
      : scores(r.plan   ? r.plan
               : r.bias ? r.noisy_probs
                        : r.noisy_logits),
        bias(r.bias) {}
  MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index t, Index e) const {
    return bias ? scores(t, e) + bias[e] : scores(t, e);
  }
  /// The expert that ranks right behind `last` (-1: the first), ties to the lower expert; -1: none.
  MOXIE_HD MOXIE_INLINE Index behind(Index t, Index last) const {
    Index next = -1;
    for (Index e = 0; e < scores.cols; ++e) {
      const bool after = last < 0 || (*this)(t, e) < (*this)(t, last) ||
                         ((*this)(t, e) == (*this)(t, last) && e > last);
      if (after && (next < 0 || (*this)(t, e) > (*this)(t, next))) next = e;
    }
    return next;
  }
};

/// Puts the kept choices of a token in front of those without a slot, and notes the last expert it
/// has asked: -1 if none of its choices is without a slot.
template <Backend B>
struct KeptFirst {
  static constexpr bool one_level = true;
  RankScores<B> rank;
  Index capacity;
  IntMatrix<B> choice, slot;
  IntVector<B> asked;

  MOXIE_HD bool kept(Index t, Index k) const { return choice(t, k) >= 0 && slot(t, k) < capacity; }
  MOXIE_HD bool lost(Index t, Index k) const { return choice(t, k) >= 0 && slot(t, k) >= capacity; }

  MOXIE_HD void operator()(Index t) const {
    bool any = false;
    for (Index k = 0; k < choice.cols; ++k) any = any || lost(t, k);
    asked[t] = -1;
    if (!any) return;
    Index front = 0;
    for (Index k = 0; k < choice.cols; ++k) {
      if (!kept(t, k)) continue;
      for (Index j = k; j > front; --j) {  // those in between keep their order
        swap(choice(t, j), choice(t, j - 1));
        swap(slot(t, j), slot(t, j - 1));
      }
      ++front;
    }
    Index last = -1;
    for (Index k = 0; k < choice.cols; ++k) last = rank.behind(t, last);
    asked[t] = static_cast<std::int32_t>(last);
  }
  MOXIE_HD static void swap(std::int32_t& a, std::int32_t& b) {
    const std::int32_t c = a;
    a = b;
    b = c;
  }
};

template <Backend B>
struct RetryGroup {
  static constexpr bool one_level = true;
  RankScores<B> rank;
  FirstPass<B> first;  // work[t]: the last expert that t asked, -1 = t needs none
  Index group, groups;
  IntMatrix<B> choice, slot;

  MOXIE_HD void operator()(Index g) const {
    const Index experts = rank.scores.cols;
    Index free = 0;
    for (Index e = 0; e < experts; ++e) free += first.capacity - first.held[e * groups + g];
    bool waiting = true;
    for (Index round = choice.cols; round < experts && waiting && free > 0; ++round) {
      waiting = false;
      for (Index j = g * group; j < (g + 1) * group; ++j) {
        const Index t = first.order ? first.order[j] : j;
        if (first.work[t] < 0) continue;
        const Index e = rank.behind(t, first.work[t]);
        first.work[t] = static_cast<std::int32_t>(e);
        if (e < 0) continue;  // scores that are not numbers have no next rank
        std::int32_t& held = first.held[e * groups + g];
        if (held < first.capacity && take(t, static_cast<std::int32_t>(e), held)) {
          ++held;
          --free;
        }
        waiting = waiting || first.work[t] >= 0;
      }
    }
  }

 private:
  /// In place of the best choice that is still without a slot; false if t has this expert already.
  MOXIE_HD bool take(Index t, std::int32_t e, std::int32_t at) const {
    Index to = -1;
    Index lost = 0;
    for (Index k = 0; k < choice.cols; ++k) {
      const bool found_none = choice(t, k) >= 0 && slot(t, k) >= first.capacity;
      if (choice(t, k) == e && !found_none) return false;
      if (!found_none) continue;
      if (to < 0) to = k;
      ++lost;
    }
    choice(t, to) = e;
    slot(t, to) = at;
    if (lost == 1) first.work[t] = -1;
    return true;
  }
};
}  // namespace detail

/// No token left behind: a choice that found no slot goes to the token's next ranked expert with a
/// free one.
///
/// After the first pass, for each rank K, K+1, ..., E-1, the tokens that still lack a choice, in
/// the order of the priority, ask their expert of that rank and take its next free slot. Drops
/// remain only if the slots or the ranks run out. Ranks are those of selection: the plan's if the
/// router made one, else of noisy_logits, or of noisy_probs + bias with a bias for selection; ties
/// to the lower expert. A router that does not choose by the gate (HashRouter, UniformRouter) has no
/// ranks of its own, and one that chooses inside groups of experts has none outside them: there the
/// next expert is the next by logits.
///
/// Afterwards a token that had lost a choice lists its kept first choices, then the experts it got
/// in the order it got them, then the choices that stay dropped. Choices of -1 (padding, recorded
/// drops) are not retried. The weights must be made again by the router's `weigh`: the gate of the
/// expert that is really used.
///
/// Cost: O(E) a question; the tokens of a group one after the other, groups in parallel.
/// Source: Fedus et al., "Switch Transformers", JMLR 2022, appendix B.
struct NextChoice {
  bool reroutes() const noexcept { return true; }
  bool returns_dropped() const noexcept { return false; }

  template <Backend B>
  void reroute(B& b, const Context<B>&, const FirstPass<B>& first, SparseRouting<B>& r) const {
    const detail::RankScores<B> rank(r);
    b.for_each(r.shape.tokens,
               detail::KeptFirst<B>{rank, first.capacity, r.choice, r.slot, first.work});
    b.for_each(
        r.shape.groups(),
        detail::RetryGroup<B>{rank, first, r.shape.group, r.shape.groups(), r.choice, r.slot}, 1);
  }
  friend constexpr bool operator==(const NextChoice&, const NextChoice&) = default;
};

}  // namespace moxie
