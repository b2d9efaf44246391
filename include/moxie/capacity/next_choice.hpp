#pragma once

#include "moxie/capacity/overflow.hpp"
#include "moxie/core/math.hpp"
#include "moxie/ops/rank.hpp"

namespace moxie {

namespace detail {
/// What selection ranks the experts of a token by.
template <Backend B>
struct RankScores {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;
  ConstVector<B> bias;  // empty: none

  explicit RankScores(const SparseRouting<B>& r)
      : scores(r.planned() ? r.plan
               : r.bias    ? r.noisy_probs
                           : r.noisy_logits),
        bias(r.bias) {}
  MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index t, Index e) const {
    return bias ? scores(t, e) + bias[e] : scores(t, e);
  }
  /// The expert that ranks right behind `last` (-1: the first); -1: none, or none that the token may have.
  MOXIE_HD MOXIE_INLINE Index behind(Index t, Index last) const {
    const RankScores& score = *this;
    const Index e = next_in_rank(scores.cols, last, [&](Index i) { return score(t, i); });
    return e >= 0 && score(t, e) > math::lowest<typename B::Scalar>() ? e : -1;
  }
};

// What is noted of a token: the last expert that it asked, or one of these.
inline constexpr std::int32_t asked_none = -1;     // it has still to ask
inline constexpr std::int32_t needs_nothing = -2;  // it lacks no choice, or has asked all

/// Puts the kept choices of a token in front of those without a slot.
template <Backend B>
struct KeptFirst {
  static constexpr bool one_level = true;
  Index capacity;
  IntMatrix<B> choice, slot;
  IntVector<B> asked;

  MOXIE_HD bool kept(Index t, Index k) const { return choice(t, k) >= 0 && slot(t, k) < capacity; }
  MOXIE_HD bool lost(Index t, Index k) const { return choice(t, k) >= 0 && slot(t, k) >= capacity; }

  MOXIE_HD void operator()(Index t) const {
    bool any = false;
    for (Index k = 0; k < choice.cols; ++k) any = any || lost(t, k);
    asked[t] = any ? asked_none : needs_nothing;
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
  FirstPass<B> first;  // work[t]: as KeptFirst::asked
  Index group, groups;
  IntMatrix<B> choice, slot;

  MOXIE_HD void operator()(Index g) const {
    const Index experts = rank.scores.cols;
    Index free = 0;
    for (Index e = 0; e < experts; ++e) free += first.capacity - first.held[e * groups + g];
    bool waiting = true;
    while (waiting && free > 0) {  // at most E rounds: in each, a token goes down its ranking
      waiting = false;
      for (Index j = g * group; j < (g + 1) * group; ++j) {
        const Index t = first.order ? first.order[j] : j;
        if (first.work[t] == needs_nothing) continue;
        const Index e = next_unlisted(t);
        first.work[t] = e < 0 ? needs_nothing : static_cast<std::int32_t>(e);
        if (e < 0) continue;
        std::int32_t& held = first.held[e * groups + g];
        if (held < first.capacity) {
          take(t, static_cast<std::int32_t>(e), held);
          ++held;
          --free;
        }
        waiting = waiting || first.work[t] != needs_nothing;
      }
    }
  }

 private:
  MOXIE_HD bool lists(Index t, Index e) const {
    for (Index k = 0; k < choice.cols; ++k)
      if (choice(t, k) == e) return true;
    return false;
  }
  /// The next expert in the token's ranking that is none of its choices; -1: none.
  MOXIE_HD Index next_unlisted(Index t) const {
    Index e = first.work[t] == asked_none ? Index(-1) : Index(first.work[t]);
    do {
      e = rank.behind(t, e);
    } while (e >= 0 && lists(t, e));
    return e;
  }
  /// In place of the best choice that is still without a slot.
  MOXIE_HD void take(Index t, std::int32_t e, std::int32_t at) const {
    Index to = -1;
    Index lost = 0;
    for (Index k = 0; k < choice.cols; ++k) {
      if (choice(t, k) < 0 || slot(t, k) < first.capacity) continue;
      if (to < 0) to = k;
      ++lost;
    }
    choice(t, to) = e;
    slot(t, to) = at;
    if (lost == 1) first.work[t] = needs_nothing;
  }
};
}  // namespace detail

/// No token left behind: a choice that found no slot goes to the token's next ranked expert with a
/// free one.
///
/// After the first pass come rounds. In each, the tokens that still lack a choice, in the order of
/// the priority, ask the next expert in their ranking that they do not list, from the first rank on,
/// and take its next free slot: of a token that chose its K best, rank K in the first round, then
/// K+1, ..., E-1. Drops remain only if the slots or the ranks run out. Ranks are those of selection:
/// the plan's if the router made one in this pass, else of noisy_logits, or of noisy_probs + bias
/// with a bias for selection; ties to the lower expert. Experts whose logit is the lowest number
/// (outside the block of WithBlocks) have no rank. For a router that does not choose by the gate
/// (HashRouter, UniformRouter), or inside groups of experts, these are ranks as well: a token may
/// then get an expert that ranks above its choices, or outside their groups.
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
    b.for_each(r.shape.tokens, detail::KeptFirst<B>{first.capacity, r.choice, r.slot, first.work});
    b.for_each(r.shape.groups(),
               detail::RetryGroup<B>{detail::RankScores<B>(r), first, r.shape.group,
                                     r.shape.groups(), r.choice, r.slot},
               1);
  }
  friend constexpr bool operator==(const NextChoice&, const NextChoice&) = default;
};

}  // namespace moxie
