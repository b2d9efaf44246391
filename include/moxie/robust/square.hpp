#pragma once

#include <cmath>

#include "moxie/core/random.hpp"
#include "moxie/robust/query.hpp"
#include "moxie/robust/threat.hpp"

namespace moxie {

namespace detail {
/// How the pixels of an image lie in a row: channels last.
struct PixelGrid {
  Index width, channels;

  MOXIE_HD MOXIE_INLINE Index row(Index j) const { return j / channels / width; }
  MOXIE_HD MOXIE_INLINE Index column(Index j) const { return j / channels % width; }
  MOXIE_HD MOXIE_INLINE Index channel(Index j) const { return j % channels; }
};

/// x <- clip(center +- eps), one sign for each column of each channel of each image.
template <Backend B>
struct Stripes {
  LinfBall<typename B::Scalar> ball;
  Random random;
  PixelGrid grid;
  Index first_image;
  ConstIntVector<B> image;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const auto stripe =
        static_cast<std::uint64_t>(grid.column(j) * grid.channels + grid.channel(j));
    const bool up = (random.bits(static_cast<std::uint64_t>(first_image + i), stripe) & 1U) != 0;
    x(i, j) = ball.clip(center(i, j) + (up ? ball.eps : T(-ball.eps)), center(i, j));
  }
};
/// rows <- x with a window moved to one face of the ball.
template <Backend B>
struct MoveWindow {
  LinfBall<typename B::Scalar> ball;
  Random random;
  PixelGrid grid;
  Index top, left, side;
  std::uint64_t iteration;
  ConstIntVector<B> image;
  ConstMatrix<B> center, x;
  Matrix<B> rows;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const Index row = grid.row(j);
    const Index column = grid.column(j);
    const bool in = row >= top && row < top + side && column >= left && column < left + side;
    if (!in) {
      rows(r, j) = x(i, j);
      return;
    }
    const auto channel = static_cast<std::uint64_t>(grid.channel(j));
    const bool up = (random.bits(iteration, 2 + channel) & 1U) != 0;
    const T by = T(2) * ball.eps;
    rows(r, j) = ball.clip(x(i, j) + (up ? by : -by), center(i, j));
  }
};
/// Whether a proposal is taken, and which points go on: those whose class still leads. One that fools
/// is taken whatever its loss: scores that are not numbers fool, and their loss is not above any.
template <Backend B>
struct SquareJudge {
  static constexpr bool one_level = true;
  bool first;
  ConstIntVector<B> image;
  ConstVector<B> losses;     // of the active points
  ConstIntVector<B> fooled;  // the same
  IntVector<B> accepted;     // the same
  Vector<B> loss;            // by image
  IntVector<B> open;

  MOXIE_HD void operator()(Index r) const {
    const Index i = image[r];
    const auto l = losses[r];
    accepted[r] = first || fooled[r] != 0 || l > loss[i] || l >= 0 ? 1 : 0;
    if (accepted[r] == 0) return;
    loss[i] = l;
    open[i] = l < 0 ? 1 : 0;
  }
};
template <Backend B>
struct AcceptRows {
  static constexpr bool one_level = true;
  ConstIntVector<B> image, accepted;
  ConstMatrix<B> rows;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    if (accepted[r] != 0) x(image[r], j) = rows(r, j);
  }
};
template <Backend B>
struct CopyFlags {
  static constexpr bool one_level = true;
  ConstIntVector<B> from;
  IntVector<B> to;

  MOXIE_HD void operator()(Index i) const { to[i] = from[i] != 0 ? 1 : 0; }
};
}  // namespace detail

/// The Square attack in L-infinity: random search without gradients, by windows that shrink. Images
/// are rows of pixels, channels last.
/// Source: Andriushchenko, Croce, Flammarion and Hein, "Square attack: a query-efficient black-box
/// adversarial attack via random search", 2020; the window and its signs are drawn once an
/// iteration for all images, as in AutoAttack.
struct Square {
  Threat threat{};
  Index height = 32, width = 32, channels = 3;
  int queries = 5000;
  double p_init = 0.8;  ///< share of the pixels that the first windows cover

  template <AttackTarget M>
  struct State {
    using B = typename M::BackendType;
    detail::Query<B> query;
    Matrix<B> points;       // [images, D] the best so far
    Vector<B> loss;         // [images] their margin loss
    IntVector<B> open;      // [images] 1: goes on
    IntVector<B> accepted;  // [active points]
  };

  template <AttackTarget M>
  void bind(Arena<typename M::BackendType>& arena, const M& target, Index images,
            State<M>& s) const {
    using T = typename M::BackendType::Scalar;
    check(target);
    s.query.bind(arena, target, images, false);
    s.points = arena.template kept<T>(images, target.input_width());
    s.loss = arena.template kept<T>(images);
    s.open = arena.template kept<std::int32_t>(images);
    s.accepted = arena.template kept<std::int32_t>(images);
  }

  /// Length of a window's side in iteration `it`, counted from 0.
  Index side(Index it) const {
    constexpr Index until[] = {10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000};
    double share = p_init;
    for (Index i = 0; i < 9 && it > until[i]; ++i)
      share = p_init / static_cast<double>(Index{2} << i);
    const auto pixels = static_cast<double>(height * width);
    const auto length = static_cast<Index>(std::nearbyint(std::sqrt(share * pixels)));
    const Index most = height < width ? height : width;
    return length < 1 ? 1 : (length > most ? most : length);
  }

  /// See Attack::run.
  template <AttackTarget M, class B = typename M::BackendType>
  void run(M& target, const AttackBatch<B>& batch, State<M>& s, Matrix<B> x_adv,
           IntVector<B> standing) const {
    using T = typename B::Scalar;
    check(target);
    detail::check_attack(who, target, batch, s.query.bound, x_adv, &standing);
    B& b = target.backend();
    detail::Query<B>& q = s.query;
    const detail::LinfBall<T> ball(threat);
    const detail::PixelGrid grid{width, channels};
    const Random stripes{batch.seed, 0, stream_id("robust/square/stripes")};
    const Random windows{batch.seed, 0, stream_id("robust/square/windows")};
    const IntVector<B> open = s.open.middle(0, batch.x.rows);
    b.for_each(batch.x.rows, detail::CopyFlags<B>{standing, open});
    q.active.select(b, open);
    if (q.active.empty()) return;
    b.for_each(q.active.count(), batch.x.cols,
               detail::Stripes<B>{ball, stripes, grid, batch.first_image, q.active.image(), batch.x,
                                  s.points});
    judge(target, batch, s, q.active.rows(b, s.points, q.rows), x_adv, standing, true);
    for (int it = 0; it < queries; ++it) {
      q.active.select(b, open);
      if (q.active.empty()) return;
      const Index length = side(it);
      const auto number = static_cast<std::uint64_t>(it);
      const Index n = q.active.count();
      b.for_each(n, batch.x.cols,
                 detail::MoveWindow<B>{ball, windows, grid,
                                       place(windows.uniform(number, 0), height, length),
                                       place(windows.uniform(number, 1), width, length), length,
                                       number, q.active.image(), batch.x, s.points, q.rows});
      judge(target, batch, s, ConstMatrix<B>(q.rows.top(n)), x_adv, standing, false);
    }
  }

  friend constexpr bool operator==(const Square&, const Square&) = default;

 private:
  static constexpr const char* who = "moxie::Square";
  template <AttackTarget M>
  void check(const M& target) const {
    detail::check_linf_threat(who, threat);
    if (target.classes() < 2)
      throw_config(who, ": the model has ", target.classes(), " classes, expected at least 2");
    if (height < 1 || width < 1 || channels < 1 ||
        height * width * channels != target.input_width())
      throw_config(who, ": images are [", height, " x ", width, " x ", channels,
                   "], the model's input has ", target.input_width(), " numbers");
    if (queries < 0) throw_config(who, ": queries is ", queries, ", expected >= 0");
    if (!(p_init > 0 && p_init <= 1))
      throw_config(who, ": p_init is ", p_init, ", expected one in (0, 1]");
  }
  /// A place for a window, from a uniform number; the last is never taken, as in AutoAttack.
  static Index place(double uniform, Index size, Index length) {
    return static_cast<Index>(uniform * static_cast<double>(size - length));
  }
  template <AttackTarget M, class B = typename M::BackendType>
  void judge(M& target, const AttackBatch<B>& batch, State<M>& s, ConstMatrix<B> rows,
             Matrix<B> x_adv, IntVector<B> standing, bool first) const {
    B& b = target.backend();
    detail::Query<B>& q = s.query;
    const ConstIntVector<B> image = q.active.image();
    const Index n = image.size;
    q.ask_rows(target, AttackLoss::margin, batch, {}, rows, false);
    b.for_each(
        n, detail::SquareJudge<B>{first, image, q.losses, q.fooled, s.accepted, s.loss, s.open});
    if (!first)
      b.for_each(n, batch.x.cols, detail::AcceptRows<B>{image, s.accepted, rows, s.points});
    detail::record_fooled(b, q, ConstMatrix<B>(s.points), x_adv, standing);
  }
};

}  // namespace moxie
