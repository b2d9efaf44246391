#pragma once

#include "moxie/capacity/overflow.hpp"

namespace moxie {

namespace detail {
/// The column that ranks right behind column `last` of row t (-1: the first), ties to the lower
/// column; -1: none.
template <Backend B>
MOXIE_HD MOXIE_INLINE Index next_ranked(ConstMatrix<B> scores, Index t, Index last) {
  Index next = -1;
  for (Index e = 0; e < scores.cols; ++e) {
    const bool after =
        last < 0 || scores(t, e) < scores(t, last) || (scores(t, e) == scores(t, last) && e > last);
    if (after && (next < 0 || scores(t, e) > scores(t, next))) next = e;
  }
  return next;
}

/// Puts the kept choices of a token in front of those without a slot, and notes the last expert it
/// has asked: -1 if none of its choices is without a slot.
template <Backend B>
struct KeptFirst {
  ConstMatrix<B> scores;
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
    for (Index rank = 0; rank < choice.cols; ++rank) last = next_ranked<B>(scores, t, last);
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
  ConstMatrix<B> scores;
  FirstPass<B> first;  // work[t]: the last expert that t asked, -1 = t needs none
  Index group, groups;
  IntMatrix<B> choice, slot;

  MOXIE_HD void operator()(Index g) const {
    Index free = 0;
    for (Index e = 0; e < scores.cols; ++e) free += first.capacity - first.held[e * groups + g];
    bool waiting = true;
    for (Index rank = choice.cols; rank < scores.cols && waiting && free > 0; ++rank) {
      waiting = false;
      for (Index j = g * group; j < (g + 1) * group; ++j) {
        const Index t = first.order ? first.order[j] : j;
        if (first.work[t] < 0) continue;
        const Index e = next_ranked<B>(scores, t, first.work[t]);
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
/// the order of the priority, ask their expert of that rank and take its next free slot. Ranks are
/// those of selection: the plan's if the router made one, else of noisy_logits; ties to the lower
/// expert. Drops remain only if the slots or the ranks run out. Afterwards a token that had lost a
/// choice lists its kept first choices, then the experts it got in the order it got them, then the
/// choices that stay dropped. Choices of -1 (padding, recorded drops) are not retried. The weights
/// must be made again by the router's `weigh`: the gate of the expert that is really used. Cost:
/// O(E) a question, one group's one after the other, groups in parallel. No memory of its own.
/// Source: Fedus et al., "Switch Transformers", JMLR 2022, appendix B.
struct NextChoice {
  bool reroutes() const noexcept { return true; }
  bool returns_dropped() const noexcept { return false; }

  template <Backend B>
  void reroute(B& b, const Context<B>&, const FirstPass<B>& first, SparseRouting<B>& r) const {
    const ConstMatrix<B> scores = r.plan ? r.plan : r.noisy_logits;
    b.for_each(r.shape.tokens,
               detail::KeptFirst<B>{scores, first.capacity, r.choice, r.slot, first.work});
    b.for_each(
        r.shape.groups(),
        detail::RetryGroup<B>{scores, first, r.shape.group, r.shape.groups(), r.choice, r.slot}, 1);
  }
  friend constexpr bool operator==(const NextChoice&, const NextChoice&) = default;
};

}  // namespace moxie
