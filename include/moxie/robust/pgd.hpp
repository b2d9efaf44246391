#pragma once

#include "moxie/core/random.hpp"
#include "moxie/robust/query.hpp"
#include "moxie/robust/threat.hpp"

namespace moxie {

namespace detail {
/// x <- clip(x + step * sign(g)).
template <Backend B>
struct SignStep {
  LinfBall<typename B::Scalar> ball;
  bool project;
  typename B::Scalar step;
  ConstIntVector<B> image;
  ConstMatrix<B> g;       // of the active points
  ConstMatrix<B> center;  // by image, as x
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    const Index i = image[r];
    const auto to = x(i, j) + step * sign_of(g(r, j));
    x(i, j) = project ? ball.clip(to, center(i, j)) : to;
  }
};
/// x <- project(x + step * g / |g|).
template <Backend B>
struct NormalizedStep {
  L2Ball<typename B::Scalar> ball;
  bool project;
  double step;
  ConstIntVector<B> image;
  ConstMatrix<B> g;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const T* slope = g.row(r);
    T* to = x.row(i);
    const Index n = x.cols;
    const double norm = math::sqrt(strip_sum<double>(
        n, [=](Index j) { return static_cast<double>(slope[j]) * static_cast<double>(slope[j]); }));
    if (!(norm > 0)) return;
    const double by = step / norm;
    row_map(n, to, [=](Index j) {
      return static_cast<T>(static_cast<double>(to[j]) + by * static_cast<double>(slope[j]));
    });
    if (project) ball.project(n, to, center.row(i));
  }
};

/// x <- clip(center + a uniform point of the cube).
template <Backend B>
struct StartInCube {
  LinfBall<typename B::Scalar> ball;
  Random random;
  Index first_image;
  ConstIntVector<B> image;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const double u =
        random.uniform(static_cast<std::uint64_t>(first_image + i), static_cast<std::uint64_t>(j));
    x(i, j) = ball.clip(center(i, j) + ball.eps * static_cast<T>(2 * u - 1), center(i, j));
  }
};
/// x <- project(center + a uniform point of the ball).
template <Backend B>
struct StartInBall {
  L2Ball<typename B::Scalar> ball;
  Random random;
  Index first_image;
  ConstIntVector<B> image;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const Index n = x.cols;
    const auto number = static_cast<std::uint64_t>(first_image + i);
    double square = 0;
    for (Index j = 0; j < n; ++j) {
      const double direction = random.normal(number, static_cast<std::uint64_t>(j));
      square += direction * direction;
    }
    if (!(square > 0)) return;
    // The radius of a uniform point of a ball of n dimensions
    const double u = random.uniform(number, static_cast<std::uint64_t>(n));
    const double radius = u > 0 ? ball.eps * math::exp(math::log(u) / static_cast<double>(n)) : 0.0;
    const double by = radius / math::sqrt(square);
    for (Index j = 0; j < n; ++j)
      x(i, j) = static_cast<T>(static_cast<double>(center(i, j)) +
                               by * random.normal(number, static_cast<std::uint64_t>(j)));
    ball.project(n, x.row(i), center.row(i));
  }
};
}  // namespace detail

/// Projected gradient descent: steps along the sign of the gradient of the cross-entropy (L2: along
/// the gradient), each followed by a projection into ball and box, from a random point of the ball.
/// Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018.
struct Pgd {
  Threat threat{};
  double step = 2.0 / 255;  ///< of each pixel; L2: length
  int steps = 10;
  bool random_start = true;  ///< false: from the image itself
  int restarts = 1;          ///< starts of `run`; random_start alone makes them differ
  bool targeted = false;     ///< towards AttackBatch::target; what counts as broken stays "not y"
  bool project = true;       ///< false: neither ball nor box, as V-MoE
  /// In `run` a point falls, and leaves the batch, at the first image on the way that is wrong;
  /// false: the last one decides, as in published numbers for PGD.
  bool any_step = true;

  template <AttackTarget M>
  struct State {
    using B = typename M::BackendType;
    detail::Query<B> query;
    Matrix<B> points;  ///< [images, D] iterates
  };

  template <AttackTarget M>
  void bind(Arena<typename M::BackendType>& arena, const M& target, Index images,
            State<M>& s) const {
    using T = typename M::BackendType::Scalar;
    check();
    s.query.bind(arena, target, images, true);
    s.points = arena.template kept<T>(images, target.input_width());
  }

  /// The perturbed images that training uses: x_adv = the last iterate of every point, whether it
  /// fools the model or not. x_adv may not overlap batch.x.
  /// @throws shape_error as `run`; whether images lie in the box is not looked at
  template <AttackTarget M, class B = typename M::BackendType>
  void perturb(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv) const {
    check_shapes(target, batch, s, x_adv, nullptr);
    B& b = target.backend();
    s.query.active.all(b, batch.x.rows);
    start(b, batch, s, x_adv, 0);
    for (int t = 0; t < steps; ++t) iterate(target, batch, s, x_adv);
  }

  /// See Attack::run.
  template <AttackTarget M, class B = typename M::BackendType>
  void run(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
           IntVector<B> standing) const {
    check_shapes(target, batch, s, x_adv, &standing);
    B& b = target.backend();
    const Matrix<B> x = s.points.top(batch.x.rows);
    for (int restart = 0; restart < restarts; ++restart) {
      s.query.active.select(b, standing);
      if (s.query.active.empty()) return;
      start(b, batch, s, x, restart);
      for (int t = 0; t < steps; ++t) {
        if (iterate(target, batch, s, x, any_step ? &x_adv : nullptr, &standing)) return;
      }
      ask(target, batch, s, x);
      detail::record_fooled(b, s.query, ConstMatrix<B>(x), x_adv, standing);
    }
  }

  /// One step of the active points of x, in place: `steps` of them from a point of one's own are an
  /// attack.
  template <AttackTarget M, class B = typename M::BackendType>
  void iterate(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x) const {
    iterate(target, batch, s, x, nullptr, nullptr);
  }
  /// All points of `images` become active.
  template <AttackTarget M>
  void begin(M& target, State<M>& s, Index images) const {
    s.query.active.all(target.backend(), images);
  }

  friend constexpr bool operator==(const Pgd&, const Pgd&) = default;

 private:
  static constexpr const char* who = "moxie::Pgd";
  void check() const {
    detail::check_threat(who, threat);
    if (!(step >= 0 && math::is_finite(step)))
      throw_config(who, ": step is ", step, ", expected a finite number >= 0");
    if (steps < 0) throw_config(who, ": steps is ", steps, ", expected >= 0");
    if (restarts < 1) throw_config(who, ": restarts is ", restarts, ", expected >= 1");
    if (restarts > 1 && !random_start)
      throw_config(who, ": restarts is ", restarts,
                   " without random_start: every start would be the same");
  }
  template <AttackTarget M, class B = typename M::BackendType>
  void check_shapes(const M& target, const AttackBatch<B>& batch, const State<M>& s,
                    Matrix<B> x_adv, const IntVector<B>* standing) const {
    check();
    detail::check_attack(who, target, batch, s.query.bound, x_adv, standing);
    if (targeted && batch.x.rows > 0 && !batch.target)
      throw_shape(who, ": the attack is targeted and the batch has no targets");
  }
  template <AttackTarget M, class B = typename M::BackendType>
  void start(B& b, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x, int restart) const {
    using T = typename B::Scalar;
    const auto image = s.query.active.image();
    const Random random{batch.seed, static_cast<std::uint64_t>(restart), stream_id("robust/pgd")};
    if (!random_start) {
      b.for_each(image.size, x.cols, detail::CopyActive<B>{image, batch.x, x});
    } else if (threat.norm == Norm::linf) {
      b.for_each(image.size, x.cols,
                 detail::StartInCube<B>{detail::LinfBall<T>(threat), random, batch.first_image,
                                        image, batch.x, x});
    } else {
      b.for_each(image.size, x.cols, detail::CopyActive<B>{image, batch.x, x});
      b.for_each(image.size,
                 detail::StartInBall<B>{detail::L2Ball<T>(threat), random, batch.first_image, image,
                                        batch.x, x},
                 detail::row_grain(x.cols));
    }
  }
  /// Scores, losses and their gradients, and who is fooled.
  template <AttackTarget M, class B = typename M::BackendType>
  void ask(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x) const {
    s.query.ask(target, targeted ? AttackLoss::targeted_cross_entropy : AttackLoss::cross_entropy,
                batch, batch.target, ConstMatrix<B>(x));
  }
  /// Whether nobody is left.
  template <AttackTarget M, class B = typename M::BackendType>
  bool iterate(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x,
               const Matrix<B>* x_adv, const IntVector<B>* standing) const {
    using T = typename B::Scalar;
    detail::Query<B>& q = s.query;
    B& b = target.backend();
    ask(target, batch, s, x);
    q.go_back(target);
    const Index n = q.active.count();
    const ConstMatrix<B> g = q.d_rows.top(n);
    if (x_adv != nullptr) {
      detail::record_fooled(b, q, ConstMatrix<B>(x), *x_adv, *standing);
    }
    if (threat.norm == Norm::linf) {
      b.for_each(n, x.cols,
                 detail::SignStep<B>{detail::LinfBall<T>(threat), project, static_cast<T>(step),
                                     q.active.image(), g, batch.x, x});
    } else {
      b.for_each(n,
                 detail::NormalizedStep<B>{detail::L2Ball<T>(threat), project, step,
                                           q.active.image(), g, batch.x, x},
                 detail::row_grain(x.cols));
    }
    if (x_adv != nullptr) q.active.select(b, *standing);
    return q.active.empty();
  }
};

namespace detail {
/// For those who take one perturbed image of each (Pgd::perturb): `name` is their attack's.
inline void check_one_start(const char* who, const char* name, const Pgd& pgd) {
  if (pgd.restarts > 1)
    throw_config(who, ": ", name, ".restarts is ", pgd.restarts,
                 ", expected 1: the last image of one start counts");
}
}  // namespace detail

/// V-MoE's attack: small equal steps from the image itself, without projection or pixel clipping.
/// In its pixels, [-1, 1], eps is twice as large.
constexpr Pgd vmoe_pgd(double eps, int steps = 40) {
  return {.threat = {.norm = Norm::linf, .eps = eps},
          .step = steps > 0 ? eps / steps : 0.0,
          .steps = steps,
          .random_start = false,
          .project = false};
}

}  // namespace moxie
