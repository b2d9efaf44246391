#pragma once

#include "moxie/ops/rank.hpp"
#include "moxie/robust/query.hpp"

namespace moxie::detail {

template <Backend B>
struct RankClasses {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;  // of the active points
  ConstIntVector<B> image;
  IntMatrix<B> ranked;  // [ranks, images]

  MOXIE_HD void operator()(Index r) const {
    const auto* z = scores.row(r);
    Index last = -1;
    for (Index rank = 0; rank < ranked.rows; ++rank) {
      last = next_in_rank(scores.cols, last, [=](Index c) { return z[c]; });
      ranked(rank, image[r]) = static_cast<std::int32_t>(last < 0 ? 0 : last);  // NaN has no rank
    }
  }
};

/// The classes that targeted attacks aim at: those that rank behind the first on the clean image.
template <Backend B>
class TargetClasses {
 public:
  /// Of `wanted` targets, how many there are among `classes`.
  static Index count(int wanted, Index classes) {
    return wanted < classes - 1 ? Index{wanted} : classes - 1;
  }
  /// For up to `wanted` targets of each image.
  void bind(Arena<B>& arena, Index images, int wanted, Index classes) {
    ranked_ = arena.template kept<std::int32_t>(count(wanted, classes) + 1, images);
  }
  /// Asks for the scores of the clean images of the active points. Uses rows and scores of the
  /// query.
  template <AttackTarget M>
  void rank(M& target, const AttackBatch<B>& batch, const Query<B>& q) {
    B& b = target.backend();
    const Index n = q.active.count();
    target.scores(q.active.rows(b, batch.x, q.rows), q.active.image(), q.scores.top(n));
    b.for_each(n, RankClasses<B>{q.scores, q.active.image(), ranked_});
  }
  /// [images] the class of the given rank of each, 0 = the first.
  ConstIntVector<B> of_rank(Index rank, Index images) const { return {ranked_.row(rank), images}; }

 private:
  IntMatrix<B> ranked_;
};

}  // namespace moxie::detail
