#pragma once

#include "moxie/robust/attack.hpp"
#include "moxie/robust/attack_loss.hpp"

namespace moxie::detail {

/// What every attack needs to ask its target.
template <Backend B>
struct Query {
  Matrix<B> rows, d_rows;      // [images, D] images of the active points, and gradients
  Matrix<B> scores, d_scores;  // [images, classes]
  Vector<B> losses;            // [images] of the active points
  IntVector<B> fooled;         // [images] of the active points: 1 = the class is wrong
  ActivePoints<B> active;
  Index bound = 0;

  template <AttackTarget M>
  void bind(Arena<B>& arena, const M& target, Index images, bool gradients) {
    using T = typename B::Scalar;
    bound = images;
    rows = arena.template kept<T>(images, target.input_width());
    scores = arena.template kept<T>(images, target.classes());
    if (gradients) {
      d_rows = arena.template kept<T>(images, target.input_width());
      d_scores = arena.template kept<T>(images, target.classes());
    }
    losses = arena.template kept<T>(images);
    fooled = arena.template kept<std::int32_t>(images);
    active.bind(arena, images);
  }
  /// Scores and losses of the active points where x [images, D], by image, has them, and who is
  /// fooled; with d_scores unless `gradients` is false.
  template <AttackTarget M>
  void ask(M& target, AttackLoss loss, const AttackBatch<B>& batch, ConstIntVector<B> aim,
           ConstMatrix<B> x, bool gradients = true) {
    B& b = target.backend();
    ask_rows(target, loss, batch, aim, active.rows(b, x, rows), gradients);
  }
  /// The same where `own` [active points, D] are.
  template <AttackTarget M>
  void ask_rows(M& target, AttackLoss loss, const AttackBatch<B>& batch, ConstIntVector<B> aim,
                ConstMatrix<B> own, bool gradients) {
    const Index n = active.count();
    target.scores(own, active.image(), scores.top(n));
    attack_losses(target.backend(), loss, ConstMatrix<B>(scores.top(n)), active.image(), batch.y,
                  aim, losses, gradients ? d_scores.top(n) : Matrix<B>{}, fooled);
  }
  /// d_rows of what was asked last, with gradients.
  template <AttackTarget M>
  void go_back(M& target) {
    const Index n = active.count();
    target.gradient(ConstMatrix<B>(d_scores.top(n)), d_rows.top(n));
  }
};

template <Backend B>
struct RecordFooled {
  ConstIntVector<B> image, fooled;
  ConstMatrix<B> x;  // by image
  Matrix<B> x_adv;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    if (fooled[r] != 0) x_adv(image[r], j) = x(image[r], j);
  }
};
template <Backend B>
struct FallFooled {
  ConstIntVector<B> image, fooled;
  IntVector<B> standing;

  MOXIE_HD void operator()(Index r) const {
    if (fooled[r] != 0) standing[image[r]] = 0;
  }
};
/// Rows of x of the active points that are fooled become those of x_adv, and the points fall.
template <Backend B>
void record_fooled(B& b, const Query<B>& q, ConstMatrix<B> x, Matrix<B> x_adv,
                   IntVector<B> standing) {
  const Index n = q.active.count();
  b.for_each(n, x.cols, RecordFooled<B>{q.active.image(), q.fooled, x, x_adv});
  b.for_each(n, FallFooled<B>{q.active.image(), q.fooled, standing});
}

}  // namespace moxie::detail
