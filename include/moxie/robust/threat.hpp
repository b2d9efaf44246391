#pragma once

#include <cstdint>

#include "moxie/core/error.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

enum class Norm { linf, l2 };

/// What an attacker may do to an image: move it inside a ball around it, and inside the box of
/// pixel values. In the unit of the model's input: eps 8/255 in the box [0, 1] is 16/255 in [-1,
/// 1].
struct Threat {
  Norm norm = Norm::linf;
  double eps = 8.0 / 255;
  double low = 0, high = 1;

  friend constexpr bool operator==(const Threat&, const Threat&) = default;
};

namespace detail {
/// The next number below a finite x.
template <class T>
MOXIE_HD MOXIE_INLINE T next_below(T x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    const auto bits = math::detail::bits<std::uint32_t>(x);
    if (x > T(0)) return math::detail::bits<T>(bits - 1);
    return x < T(0) ? math::detail::bits<T>(bits + 1)
                    : math::detail::bits<T>(std::uint32_t{0x80000001U});
  } else {
    const auto bits = math::detail::bits<std::uint64_t>(x);
    if (x > T(0)) return math::detail::bits<T>(bits - 1);
    return x < T(0) ? math::detail::bits<T>(bits + 1)
                    : math::detail::bits<T>(std::uint64_t{0x8000000000000001U});
  }
}
/// The largest number that is not above a + e.
template <class T>
MOXIE_HD MOXIE_INLINE T sum_below(T a, T e) {
  const T sum = a + e;
  const T b = sum - a;
  const T error = (a - (sum - b)) + (e - b);  // a + e is exactly sum + error (Knuth)
  return error < T(0) ? next_below(sum) : sum;
}
/// The largest T that is not above v.
template <class T>
T rounded_down(double v) {
  const T t = static_cast<T>(v);
  return static_cast<double>(t) > v ? next_below(t) : t;
}

template <class T>
MOXIE_HD MOXIE_INLINE T sign_of(T v) {
  return static_cast<T>(static_cast<int>(v > T(0)) - static_cast<int>(v < T(0)));
}

/// The box in numbers of T, rounded inward.
template <class T>
struct PixelBox {
  T low, high;

  explicit PixelBox(const Threat& t)
      : low(-rounded_down<T>(-t.low)), high(rounded_down<T>(t.high)) {}
  MOXIE_HD MOXIE_INLINE T clip(T x) const {
    x = x > high ? high : x;
    return x < low ? low : x;
  }
};
/// The box and the L-infinity ball around a point of the box. Bounds are rounded inward: what is
/// clipped lies inside the ball as real numbers have it.
template <class T>
struct LinfBall {
  T eps;
  PixelBox<T> box;

  explicit LinfBall(const Threat& t) : eps(rounded_down<T>(t.eps)), box(t) {}
  MOXIE_HD MOXIE_INLINE T clip(T x, T center) const {
    const T up = sum_below(center, eps);
    const T down = -sum_below(-center, eps);
    x = x > up ? up : x;
    x = x < down ? down : x;
    return box.clip(x);
  }
};

/// The box and the L2 ball around a point of the box.
template <class T>
struct L2Ball {
  double eps;
  PixelBox<T> box;

  explicit L2Ball(const Threat& t) : eps(t.eps), box(t) {}
  /// Moves x [n] inside, along the line to its center.
  MOXIE_HD MOXIE_INLINE void project(Index n, T* x, const T* center) const {
    const PixelBox<T> inside = box;
    row_map(n, x, [=](Index j) { return inside.clip(x[j]); });
    double norm = distance(n, x, center);
    // Rounding the points of the line to T can lead out again: aim a little lower then.
    for (double slack = 1.0 / (sizeof(T) == sizeof(float) ? 16777216.0 : 9007199254740992.0);
         norm > eps; slack *= 4) {
      const double by = eps / norm * (1 - slack);
      row_map(n, x, [=](Index j) {
        const auto from = static_cast<double>(center[j]);
        return inside.clip(static_cast<T>(from + by * (static_cast<double>(x[j]) - from)));
      });
      norm = distance(n, x, center);
    }
  }
  MOXIE_HD MOXIE_INLINE static double distance(Index n, const T* x, const T* center) {
    return math::sqrt(strip_sum<double>(n, [=](Index j) {
      const double d = static_cast<double>(x[j]) - static_cast<double>(center[j]);
      return d * d;
    }));
  }
};

template <Backend B>
struct ProjectLinf {
  LinfBall<typename B::Scalar> ball;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r, Index j) const {
    x(r, j) = ball.clip(x(r, j), center(r, j));
  }
};
template <Backend B>
struct ProjectL2 {
  L2Ball<typename B::Scalar> ball;
  ConstMatrix<B> center;
  Matrix<B> x;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    ball.project(x.cols, x.row(r), center.row(r));
  }
};

/// @throws config_error for a threat that makes no sense
inline void check_threat(const char* who, const Threat& t) {
  if (!(t.eps >= 0 && math::is_finite(t.eps)))
    throw_config(who, ": eps is ", t.eps, ", expected a finite number >= 0");
  if (!(t.low < t.high) || !math::is_finite(t.low) || !math::is_finite(t.high))
    throw_config(who, ": the box is [", t.low, ", ", t.high, "], expected finite low < high");
}
/// The same, and for another ball than that of L-infinity.
inline void check_linf_threat(const char* who, const Threat& t) {
  check_threat(who, t);
  if (t.norm != Norm::linf) throw_config(who, ": the norm is L2, expected L-infinity");
}
}  // namespace detail

/// Moves each row of x into the ball around the same row of center and into the box. Never outside,
/// as real numbers have it (L2: as double precision has the norm); rows of center lie in the box.
/// x, center: [R, D].
/// Cost: O(R D); no scratch.
struct ProjectRows {
  template <Backend B>
  void operator()(B& b, const Threat& threat, ConstMatrix<B> center, Matrix<B> x) const {
    detail::run_or_generic(*this, b, threat, center, x);
  }
  template <Backend B>
  static void generic(B& b, const Threat& threat, ConstMatrix<B> center, Matrix<B> x) {
    using T = typename B::Scalar;
    if (threat.norm == Norm::linf) {
      b.for_each(x.rows, x.cols, detail::ProjectLinf<B>{detail::LinfBall<T>(threat), center, x});
    } else {
      b.for_each(x.rows, detail::ProjectL2<B>{detail::L2Ball<T>(threat), center, x},
                 detail::row_grain(x.cols));
    }
  }
};
inline constexpr ProjectRows project_rows{};

}  // namespace moxie
