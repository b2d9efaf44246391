#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/rank.hpp"

namespace moxie {

namespace detail {
/// best[0 .. k) = the columns of the k largest of n scores, by insertion into a list of at most k: an equal score stays
/// behind the lower index, and NaN where it comes to lie.
template <class T>
MOXIE_HD inline void insert_top_k(const T* score, Index n, Index k, std::int32_t* best) {
  Index held = 0;
  for (Index e = 0; e < n; ++e) {
    const T s = score[e];
    if (held == k && !(s > score[best[k - 1]])) continue;
    Index at = held < k ? held++ : k - 1;
    for (; at > 0 && s > score[best[at - 1]]; --at) best[at] = best[at - 1];
    best[at] = static_cast<std::int32_t>(e);
  }
}

template <Backend B>
struct TopKRow {
  using T = typename B::Scalar;
  using Id = std::int32_t;
  ConstMatrix<B> scores;
  ConstIntVector<B> mask;
  IntMatrix<B> choice;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    Id* best = choice.row(r);
    const Index k = choice.cols;
    if (mask && mask[r] == 0) {
      for (Index j = 0; j < k; ++j) best[j] = -1;
      return;
    }
    const T* score = scores.row(r);
    T bound = static_cast<T>(__builtin_huge_val());
    Id last = -1;
    for (Index j = 0; j < k; ++j) {
      last = next(score, bound, last);
      if (last < 0) return insert_top_k(score, scores.cols, k, best);
      best[j] = last;
      bound = score[last];
    }
  }

 private:
  /// The column that ranks right behind `last`, whose score is `bound`, by two passes that become vectors; -1 if there
  /// is none but minus infinity and NaN.
  MOXIE_HD MOXIE_INLINE Id next(const T* score, T bound, Id last) const {
    const Index n = scores.cols;
    const auto behind = [=](Index e) {
      return (score[e] < bound) | ((score[e] == bound) & (static_cast<Id>(e) > last));
    };
    const T peak = strip_maximum<T, half_strip>(
        n, [=](Index e) { return math::select(behind(e), score[e], math::lowest<T>()); });
    // The lowest column of those with that score: the largest of n - e.
    const Id found = strip_maximum<Id, half_strip>(
        n,
        [=](Index e) {
          const Id is = -static_cast<Id>(behind(e) & (score[e] == peak));
          return is & (static_cast<Id>(n) - static_cast<Id>(e));
        },
        0);
    return found > 0 ? static_cast<Id>(n) - found : Id(-1);
  }
};

template <Backend B>
struct RankRow {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;
  ConstIntVector<B> mask;
  Index rank;
  IntMatrix<B> choice;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const auto* score = scores.row(r);
    const Index best = column_of_rank(scores.cols, rank, [=](Index e) { return score[e]; });
    for (Index j = 0; j < choice.cols; ++j) choice(r, j) = -1;
    if (!(mask && mask[r] == 0)) choice(r, 0) = static_cast<std::int32_t>(best);
  }
};
}  // namespace detail

/// choice[r, :] = columns of the K largest scores of row r, descending, ties to the lower column.
/// scores: [R, E]; mask: [R] or empty, 0 gives a row of -1; choice: [R, K], K <= E. Always distinct columns, also
/// for NaN, which ranks as if it never compared greater.   Cost: O(R E K).
struct TopKRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> scores, ConstIntVector<B> mask, IntMatrix<B> choice) const {
    detail::run_or_generic(*this, b, scores, mask, choice);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> scores, ConstIntVector<B> mask, IntMatrix<B> choice) {
    b.for_each(scores.rows, detail::TopKRow<B>{scores, mask, choice});
  }
};
inline constexpr TopKRows top_k_rows{};

/// choice[r, 0] = the column of the given rank (0 = largest) of row r, ties as in top_k_rows; the other columns
/// of choice become -1.   Cost: O(R E rank).
struct RankRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> scores, ConstIntVector<B> mask, Index rank,
                  IntMatrix<B> choice) const {
    detail::run_or_generic(*this, b, scores, mask, rank, choice);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> scores, ConstIntVector<B> mask, Index rank,
                      IntMatrix<B> choice) {
    b.for_each(scores.rows, detail::RankRow<B>{scores, mask, rank, choice});
  }
};
inline constexpr RankRows rank_rows{};

}  // namespace moxie
