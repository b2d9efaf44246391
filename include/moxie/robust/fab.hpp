#pragma once

#include "moxie/robust/fab_step.hpp"
#include "moxie/robust/query.hpp"
#include "moxie/robust/target_classes.hpp"
#include "moxie/robust/threat.hpp"

namespace moxie {

namespace detail {
/// A point over the boundary: kept if it is the nearest so far and inside the ball, then drawn back
/// to its center.
template <Backend B>
struct FabJudge {
  LinfBall<typename B::Scalar> ball;
  typename B::Scalar back;
  ConstIntVector<B> image, fooled;
  ConstMatrix<B> center;
  Matrix<B> x, x_adv;
  Vector<B> nearest;  // by image
  IntVector<B> standing;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    if (fooled[r] == 0) return;
    const Index i = image[r];
    const Index n = x.cols;
    T* at = x.row(i);
    const T* from = center.row(i);
    const LinfBall<T> within = ball;
    const T distance = strip_maximum<T>(n, [=](Index j) { return math::abs(at[j] - from[j]); });
    const auto outside = strip_sum<Index>(
        n, [=](Index j) { return static_cast<Index>(within.clip(at[j], from[j]) != at[j]); });
    if (distance < nearest[i]) {
      nearest[i] = distance;
      if (outside == 0) {
        T* to = x_adv.row(i);
        row_map(n, to, [=](Index j) { return at[j]; });
        standing[i] = 0;
      }
    }
    const T keep = back;
    row_map(n, at, [=](Index j) { return from[j] + keep * (at[j] - from[j]); });
  }
};
template <Backend B>
struct FillActive {
  static constexpr bool one_level = true;
  ConstIntVector<B> image;
  Vector<B> to;
  typename B::Scalar value;

  MOXIE_HD void operator()(Index r) const { to[image[r]] = value; }
};
}  // namespace detail

/// The targeted fast adaptive boundary attack in L-infinity: looks for the nearest image of each
/// target class, along linearisations of the gap between its score and the class's. Only what lies
/// inside the ball breaks a point.
/// Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
/// attack", 2020; without random starts and final search, as in AutoAttack's standard ensemble.
struct FabTargeted {
  Threat threat{};
  int iterations = 100;
  int targets =
      9;  ///< the classes that rank second, third, ... on the clean image; at most classes - 1
  double most_bias = 0.1;   ///< alpha_max: the way back to the image in a step
  double overshoot = 1.05;  ///< eta
  double back =
      0.9;  ///< beta: how far from the image a point starts anew that went over the boundary
  /// Points leave the batch as soon as they are broken; true: they go on looking for something
  /// nearer.
  bool keep_broken = false;

  template <AttackTarget M>
  struct State {
    using B = typename M::BackendType;
    detail::Query<B> query;
    detail::TargetClasses<B> targets;
    Matrix<B> points;   ///< [images, D] iterates
    Vector<B> nearest;  ///< [images] distance of the nearest found, inside the ball or not
  };
  /// What `nearest` is where nothing was found.
  static constexpr double nothing = 1e10;

  template <AttackTarget M>
  void bind(Arena<typename M::BackendType>& arena, const M& target, Index images,
            State<M>& s) const {
    using T = typename M::BackendType::Scalar;
    check(target.classes());
    s.query.bind(arena, target, images, true);
    s.targets.bind(arena, images, targets, target.classes());
    s.points = arena.template kept<T>(images, target.input_width());
    s.nearest = arena.template kept<T>(images);
  }

  /// See Attack::run. The batch's own targets are not read.
  template <AttackTarget M, class B = typename M::BackendType>
  void run(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
           IntVector<B> standing) const {
    using T = typename B::Scalar;
    check(target.classes());
    detail::check_attack(who, target, batch, s.query.bound, x_adv, &standing);
    B& b = target.backend();
    detail::Query<B>& q = s.query;
    q.active.select(b, standing);
    if (q.active.empty()) return;
    b.for_each(q.active.count(),
               detail::FillActive<B>{q.active.image(), s.nearest, static_cast<T>(nothing)});
    s.targets.rank(target, batch, q);
    const Index rivals = detail::TargetClasses<B>::count(targets, target.classes());
    for (Index rank = 1; rank <= rivals; ++rank) {
      const ConstIntVector<B> aim = s.targets.of_rank(rank, batch.x.rows);
      b.for_each(q.active.count(), batch.x.cols,
                 detail::CopyActive<B>{q.active.image(), batch.x, s.points});
      for (int i = 0; i < iterations; ++i) {
        iterate(target, batch, aim, s, x_adv, standing);
        if (keep_broken) continue;
        q.active.select(b, standing);
        if (q.active.empty()) return;
      }
    }
  }

  friend constexpr bool operator==(const FabTargeted&, const FabTargeted&) = default;

 private:
  static constexpr const char* who = "moxie::FabTargeted";
  void check(Index classes) const {
    detail::check_linf_threat(who, threat);
    if (classes < 2)
      throw_config(who, ": the model has ", classes, " classes, expected at least 2");
    if (iterations < 0) throw_config(who, ": iterations is ", iterations, ", expected >= 0");
    if (targets < 1) throw_config(who, ": targets is ", targets, ", expected >= 1");
    for (const auto& [name, value] : {std::pair{"most_bias", most_bias}, {"back", back}})
      if (!(value >= 0 && value <= 1))
        throw_config(who, ": ", name, " is ", value, ", expected one in [0, 1]");
    if (!(overshoot >= 1 && math::is_finite(overshoot)))
      throw_config(who, ": overshoot is ", overshoot, ", expected a finite number >= 1");
  }
  template <AttackTarget M, class B = typename M::BackendType>
  void iterate(M& target, const AttackBatch<B>& batch, ConstIntVector<B> aim, State<M>& s,
               Matrix<B> x_adv, IntVector<B> standing) const {
    using T = typename B::Scalar;
    B& b = target.backend();
    detail::Query<B>& q = s.query;
    const ConstIntVector<B> image = q.active.image();
    const Index n = image.size;
    const auto ask = [&](bool gradients) {
      q.ask(target, AttackLoss::target_margin, batch, aim, ConstMatrix<B>(s.points), gradients);
    };
    ask(true);
    q.go_back(target);
    fab_step(b, threat, most_bias, overshoot, image, batch.x, ConstMatrix<B>(q.d_rows.top(n)),
             ConstVector<B>(q.losses), s.points, Vector<B>{});
    ask(false);
    b.for_each(n,
               detail::FabJudge<B>{detail::LinfBall<T>(threat), static_cast<T>(back), image,
                                   q.fooled, batch.x, s.points, x_adv, s.nearest, standing},
               detail::row_grain(batch.x.cols));
  }
};

}  // namespace moxie
