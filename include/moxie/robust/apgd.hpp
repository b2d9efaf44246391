#pragma once

#include "moxie/core/random.hpp"
#include "moxie/robust/apgd_schedule.hpp"
#include "moxie/robust/query.hpp"
#include "moxie/robust/target_classes.hpp"
#include "moxie/robust/threat.hpp"

namespace moxie {

namespace detail {
/// x <- clip(center + eps t / max |t|), t uniform in the cube: a point on a face of the ball.
template <Backend B>
struct StartOnFace {
  LinfBall<typename B::Scalar> ball;
  Random random;
  Index first_image;
  ConstIntVector<B> image;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const auto number = static_cast<std::uint64_t>(first_image + i);
    double largest = 0;
    for (Index j = 0; j < x.cols; ++j) largest = math::maximum(largest, math::abs(draw(number, j)));
    const double by = largest > 0 ? static_cast<double>(ball.eps) / largest : 0.0;
    for (Index j = 0; j < x.cols; ++j)
      x(i, j) = ball.clip(center(i, j) + static_cast<T>(by * draw(number, j)), center(i, j));
  }

 private:
  MOXIE_HD MOXIE_INLINE double draw(std::uint64_t number, Index j) const {
    return 2 * random.uniform(number, static_cast<std::uint64_t>(j)) - 1;
  }
};

/// What APGD knows of each point, by image.
template <Backend B>
struct ApgdPoints {
  using T = typename B::Scalar;
  Matrix<B> x, previous, best;  // [images, D]
  Matrix<B> gradient, best_gradient;
  Vector<B> loss, best_loss, last_best;  // last_best: best_loss at the last checkpoint
  Vector<B> step;
  IntVector<B> rises;    // iterations of this window in which the loss rose
  IntVector<B> reduced;  // 1: the step was halved at the last checkpoint
  IntVector<B>
      renew;  // [active points] 1: their best is new, or (at a checkpoint) they go back to it

  void bind(Arena<B>& arena, Index images, Index width) {
    for (Matrix<B>* m : {&x, &previous, &best, &gradient, &best_gradient})
      *m = arena.template kept<T>(images, width);
    for (Vector<B>* v : {&loss, &best_loss, &last_best, &step}) *v = arena.template kept<T>(images);
    for (IntVector<B>* v : {&rises, &reduced, &renew})
      *v = arena.template kept<std::int32_t>(images);
  }
};

template <Backend B>
struct ApgdFirstLoss {
  static constexpr bool one_level = true;
  ApgdPoints<B> p;
  ConstIntVector<B> image;
  ConstVector<B> losses;
  typename B::Scalar step;
  bool compare_with_zero;

  MOXIE_HD void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    p.best_loss[i] = p.last_best[i] = losses[r];
    p.loss[i] = compare_with_zero ? T(0) : losses[r];
    p.step[i] = step;
    p.rises[i] = 0;
    p.reduced[i] = 1;
  }
};
template <Backend B>
struct ApgdFirstPoint {
  ApgdPoints<B> p;
  ConstIntVector<B> image;
  ConstMatrix<B> g;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    const Index i = image[r];
    p.previous(i, j) = p.best(i, j) = p.x(i, j);
    p.gradient(i, j) = p.best_gradient(i, j) = g(r, j);
  }
};
template <Backend B>
struct ApgdMove {
  ApgdPoints<B> p;
  LinfBall<typename B::Scalar> ball;
  typename B::Scalar momentum;  // of the new step
  ConstIntVector<B> image;
  ConstMatrix<B> center;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const T x = p.x(i, j);
    const T v = x - p.previous(i, j);
    const T z = ball.clip(x + p.step[i] * sign_of(p.gradient(i, j)), center(i, j));
    p.previous(i, j) = x;
    p.x(i, j) = ball.clip(x + momentum * (z - x) + (T(1) - momentum) * v, center(i, j));
  }
};
template <Backend B>
struct ApgdJudge {
  static constexpr bool one_level = true;
  ApgdPoints<B> p;
  ConstIntVector<B> image;
  ConstVector<B> losses;

  MOXIE_HD void operator()(Index r) const {
    const Index i = image[r];
    const auto loss = losses[r];
    p.rises[i] += loss > p.loss[i] ? 1 : 0;
    p.loss[i] = loss;
    p.renew[r] = loss > p.best_loss[i] ? 1 : 0;
    if (p.renew[r] != 0) p.best_loss[i] = loss;
  }
};
template <Backend B>
struct ApgdKeep {
  static constexpr bool one_level = true;
  ApgdPoints<B> p;
  ConstIntVector<B> image;
  ConstMatrix<B> g;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    const Index i = image[r];
    p.gradient(i, j) = g(r, j);
    if (p.renew[r] == 0) return;
    p.best(i, j) = p.x(i, j);
    p.best_gradient(i, j) = g(r, j);
  }
};
template <Backend B>
struct ApgdCheckpoint {
  static constexpr bool one_level = true;
  ApgdPoints<B> p;
  ConstIntVector<B> image;
  double enough;  // rises: as many or fewer are oscillation

  MOXIE_HD void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const bool oscillates = static_cast<double>(p.rises[i]) <= enough;
    const bool stands = p.reduced[i] == 0 && p.last_best[i] >= p.best_loss[i];
    const std::int32_t halve = oscillates || stands ? 1 : 0;
    p.rises[i] = 0;
    p.reduced[i] = p.renew[r] = halve;
    p.last_best[i] = p.best_loss[i];
    if (halve != 0) p.step[i] *= T(0.5);
  }
};
template <Backend B>
struct ApgdReturn {
  ApgdPoints<B> p;
  ConstIntVector<B> image;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    if (p.renew[r] == 0) return;
    const Index i = image[r];
    p.x(i, j) = p.best(i, j);
    p.gradient(i, j) = p.best_gradient(i, j);
  }
};
}  // namespace detail

/// Auto-PGD in L-infinity: momentum, and a step that halves where the loss no longer rises, going
/// back to the best point so far. Everything is decided for each point by itself. With a targeted
/// loss it runs once for each of the classes that rank second, third, ... on the clean image.
/// Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
/// diverse parameter-free attacks", 2020, algorithm 1.
struct Apgd {
  /// What the first loss is compared with when rises are counted: 0, as the released code's array
  /// that wraps around, or the loss of the start.
  enum class FirstComparison { zero, start };

  Threat threat{};
  AttackLoss loss = AttackLoss::cross_entropy;
  int iterations = 100;
  int restarts = 1;
  int targets = 9;  ///< with a targeted loss; at most classes - 1
  double rho = 0.75;
  FirstComparison first = FirstComparison::zero;
  /// Points leave the batch as soon as they are wrong; true: they stay to the end, and the last
  /// image that was wrong counts.
  bool keep_broken = false;

  template <AttackTarget M>
  struct State {
    using B = typename M::BackendType;
    detail::Query<B> query;
    detail::ApgdPoints<B> points;
    detail::TargetClasses<B> targets;
    ApgdSchedule schedule{0};
    bool first_iteration = true;
  };

  template <AttackTarget M>
  void bind(Arena<typename M::BackendType>& arena, const M& target, Index images,
            State<M>& s) const {
    check(target.classes());
    s.query.bind(arena, target, images, true);
    s.points.bind(arena, images, target.input_width());
    if (is_targeted(loss)) s.targets.bind(arena, images, targets, target.classes());
  }

  /// See Attack::run. With a targeted loss the batch's own targets are not read.
  template <AttackTarget M, class B = typename M::BackendType>
  void run(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
           IntVector<B> standing) const {
    check(target.classes());
    detail::check_attack(who, target, batch, s.query.bound, x_adv, &standing);
    B& b = target.backend();
    const Index rivals = detail::TargetClasses<B>::count(targets, target.classes());
    for (int restart = 0; restart < restarts; ++restart) {
      if (!is_targeted(loss)) {
        if (run_once(target, batch, s, x_adv, standing, restart, 0)) return;
        continue;
      }
      s.query.active.select(b, standing);
      if (s.query.active.empty()) return;
      if (restart == 0) s.targets.rank(target, batch, s.query);
      for (Index rank = 1; rank <= rivals; ++rank) {
        AttackBatch<B> aimed = batch;
        aimed.target = s.targets.of_rank(rank, batch.x.rows);
        if (run_once(target, aimed, s, x_adv, standing, restart, rank)) return;
      }
    }
  }

  /// The parts of a run, for starts of one's own: all points of the batch become active, `start`
  /// [images, D] is where they begin, and its loss is taken. Fallen points are recorded in x_adv
  /// and standing.
  template <AttackTarget M, class B = typename M::BackendType>
  void begin(M& target, const AttackBatch<B>& batch, State<M>& s, ConstMatrix<B> start,
             Matrix<B> x_adv, IntVector<B> standing) const {
    B& b = target.backend();
    s.query.active.all(b, batch.x.rows);
    b.for_each(batch.x.rows, batch.x.cols,
               detail::CopyActive<B>{s.query.active.image(), start, s.points.x});
    begin_here(target, batch, s, x_adv, standing);
  }
  /// One iteration of the active points.
  template <AttackTarget M, class B = typename M::BackendType>
  void iterate(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
               IntVector<B> standing) const {
    using T = typename B::Scalar;
    B& b = target.backend();
    const detail::ApgdPoints<B>& p = s.points;
    const ConstIntVector<B> image = s.query.active.image();
    const Index n = image.size;
    const Index width = batch.x.cols;
    const T momentum = s.first_iteration ? T(1) : T(0.75);
    s.first_iteration = false;
    b.for_each(n, width,
               detail::ApgdMove<B>{p, detail::LinfBall<T>(threat), momentum, image, batch.x});
    ask(target, batch, s);
    detail::record_fooled(b, s.query, ConstMatrix<B>(p.x), x_adv, standing);
    b.for_each(n, detail::ApgdJudge<B>{p, image, s.query.losses});
    b.for_each(n, width, detail::ApgdKeep<B>{p, image, s.query.d_rows});
    if (s.schedule.ends_window()) {
      const double enough = rho * static_cast<double>(s.schedule.window());
      b.for_each(n, detail::ApgdCheckpoint<B>{p, image, enough});
      b.for_each(n, width, detail::ApgdReturn<B>{p, image});
    }
    s.schedule.advance();
  }

  friend constexpr bool operator==(const Apgd&, const Apgd&) = default;

 private:
  static constexpr const char* who = "moxie::Apgd";
  void check(Index classes) const {
    detail::check_linf_threat(who, threat);
    if (loss == AttackLoss::targeted_cross_entropy || loss == AttackLoss::cross_entropy ||
        loss == AttackLoss::dlr || loss == AttackLoss::targeted_dlr) {
      if (classes < least_classes(loss))
        throw_config(who, ": the model has ", classes, " classes, this loss needs ",
                     least_classes(loss));
    } else {
      throw_config(who, ": the loss is a margin, expected cross-entropy or DLR");
    }
    if (iterations < 0) throw_config(who, ": iterations is ", iterations, ", expected >= 0");
    if (restarts < 1) throw_config(who, ": restarts is ", restarts, ", expected >= 1");
    if (targets < 1) throw_config(who, ": targets is ", targets, ", expected >= 1");
    if (!(rho >= 0 && rho <= 1)) throw_config(who, ": rho is ", rho, ", expected one in [0, 1]");
  }
  /// Whether nobody is left.
  template <AttackTarget M, class B = typename M::BackendType>
  bool run_once(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
                IntVector<B> standing, int restart, Index rank) const {
    using T = typename B::Scalar;
    B& b = target.backend();
    s.query.active.select(b, standing);
    if (s.query.active.empty()) return true;
    const Random random{
        batch.seed, static_cast<std::uint64_t>(restart),
        stream_id("robust/apgd", static_cast<std::uint64_t>(rank * 16 + static_cast<Index>(loss)))};
    b.for_each(s.query.active.count(),
               detail::StartOnFace<B>{detail::LinfBall<T>(threat), random, batch.first_image,
                                      s.query.active.image(), batch.x, s.points.x},
               detail::row_grain(batch.x.cols));
    begin_here(target, batch, s, x_adv, standing);
    for (int i = 0; i < iterations; ++i) {
      if (!keep_broken) s.query.active.select(b, standing);
      if (s.query.active.empty()) return true;
      iterate(target, batch, s, x_adv, standing);
    }
    return false;
  }
  template <AttackTarget M, class B = typename M::BackendType>
  void begin_here(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
                  IntVector<B> standing) const {
    using T = typename B::Scalar;
    B& b = target.backend();
    const detail::ApgdPoints<B>& p = s.points;
    ask(target, batch, s);
    detail::record_fooled(b, s.query, ConstMatrix<B>(p.x), x_adv, standing);
    const ConstIntVector<B> image = s.query.active.image();
    b.for_each(image.size,
               detail::ApgdFirstLoss<B>{p, image, s.query.losses, static_cast<T>(2 * threat.eps),
                                        first == FirstComparison::zero});
    b.for_each(image.size, batch.x.cols, detail::ApgdFirstPoint<B>{p, image, s.query.d_rows});
    s.schedule = ApgdSchedule(iterations);
    s.first_iteration = true;
  }
  /// Losses, gradients and who is fooled at the current points.
  template <AttackTarget M, class B = typename M::BackendType>
  void ask(M& target, const AttackBatch<B>& batch, State<M>& s) const {
    s.query.ask(target, loss, batch, batch.target, ConstMatrix<B>(s.points.x));
    s.query.go_back(target);
  }
};

}  // namespace moxie
