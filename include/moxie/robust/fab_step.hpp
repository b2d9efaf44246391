#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"
#include "moxie/robust/threat.hpp"

namespace moxie {

namespace detail {
/// The shortest way d in L-infinity from t [n] to the plane w.(t + d) = w.t - c inside the box:
/// every pixel goes by `length` or as far as the box lets it, against the sign of w (c < 0: along
/// it). A plane out of reach: all the way.
template <class T>
struct WayToPlane {
  const T* t;
  const T* w;
  PixelBox<T> box;
  T sign;    // of c
  T length;  // of the longest of d

  MOXIE_HD MOXIE_INLINE WayToPlane(Index n, const T* point, const T* normal, double c,
                                   const PixelBox<T>& pixels)
      : t(point), w(normal), box(pixels), sign(c < 0 ? T(-1) : T(1)), length(0) {
    // What is gained, the sum of |w_i| min(length, room_i), is concave in the length: Newton's
    // steps come from below and end exactly, since each passes another room or none.
    const double wanted = c < 0 ? -c : c;
    Index stopped = -1;
    for (;;) {
      const T at = length;
      const auto full = strip_sum<double>(n, [=, this](Index j) {
        const T room = room_of(j);
        return room > at ? 0.0 : static_cast<double>(math::abs(w[j])) * static_cast<double>(room);
      });
      const auto slope = strip_sum<double>(n, [=, this](Index j) {
        return room_of(j) > at ? static_cast<double>(math::abs(w[j])) : 0.0;
      });
      const auto now = strip_sum<Index>(
          n, [=, this](Index j) { return static_cast<Index>(!(room_of(j) > at)); });
      if (now == stopped) return;
      stopped = now;
      if (!(slope > 0)) {  // out of reach
        length = strip_maximum<T>(n, [=, this](Index j) { return room_of(j); });
        return;
      }
      const auto next = static_cast<T>((wanted - full) / slope);
      if (!(next > length)) return;
      length = next;
    }
  }
  MOXIE_HD MOXIE_INLINE T operator()(Index j) const {
    const T room = room_of(j);
    return -sign * sign_of(w[j]) * (room < length ? room : length);
  }
  /// L-infinity norm of d.
  MOXIE_HD MOXIE_INLINE T norm(Index n) const {
    return strip_maximum<T>(n, [=, this](Index j) { return math::abs((*this)(j)); });
  }

 private:
  MOXIE_HD MOXIE_INLINE T room_of(Index j) const {
    const T up = sign * w[j];
    if (up > T(0)) return t[j] - box.low;
    return up < T(0) ? box.high - t[j] : T(0);
  }
};

template <Backend B>
struct WayToPlaneRow {
  PixelBox<typename B::Scalar> box;
  ConstMatrix<B> t, w;
  ConstVector<B> b;
  Matrix<B> d;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* x = t.row(r);
    const T* normal = w.row(r);
    const double c =
        strip_sum<double>(
            t.cols,
            [=](Index j) { return static_cast<double>(x[j]) * static_cast<double>(normal[j]); }) -
        static_cast<double>(b[r]);
    const WayToPlane<T> way(t.cols, x, normal, c, box);
    T* out = d.row(r);
    for (Index j = 0; j < t.cols; ++j) out[j] = way(j);
  }
};

template <Backend B>
struct FabStepRow {
  PixelBox<typename B::Scalar> box;
  double most_bias, overshoot;
  ConstIntVector<B> image;
  ConstMatrix<B> center;  // by image, as x
  ConstMatrix<B> w;       // of the active points, as df
  ConstVector<B> df;
  Matrix<B> x;
  Vector<B> bias;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index i = image[r];
    const Index n = x.cols;
    T* at = x.row(i);
    const T* from = center.row(i);
    const T* normal = w.row(r);
    // w.t - b with b = w.x - df, without the large terms that cancel
    const auto c1 = static_cast<double>(df[r]);
    const double c2 = c1 + strip_sum<double>(n, [=](Index j) {
                        return static_cast<double>(normal[j]) *
                               (static_cast<double>(from[j]) - static_cast<double>(at[j]));
                      });
    const WayToPlane<T> here(n, at, normal, c1, box);
    const WayToPlane<T> there(n, from, normal, c2, box);
    const double one = math::maximum(static_cast<double>(here.norm(n)), 1e-8);
    const double two = math::maximum(static_cast<double>(there.norm(n)), 1e-8);
    const double share = one / (one + two);
    const auto a = static_cast<T>(share < most_bias ? share : most_bias);
    const auto eta = static_cast<T>(overshoot);
    if (bias) bias[r] = a;
    for (Index j = 0; j < n; ++j) {
      const T to = (T(1) - a) * (at[j] + eta * here(j)) + a * (from[j] + eta * there(j));
      at[j] = box.clip(to);  // pixel j is read by no later one
    }
  }
};
}  // namespace detail

/// d[r, :] = the shortest way in L-infinity from t[r, :] to the plane w.x = b inside the box [low,
/// high]; as near as the box lets it where it does not reach that far. t, w, d: [R, D]; b: [R].
/// Cost: O(R D) a pass, a few passes; no scratch.
/// Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
/// attack", 2020, eq. 6.
struct WayToPlanes {
  template <Backend B>
  void operator()(B& backend, ConstMatrix<B> t, ConstMatrix<B> w, ConstVector<B> b, Matrix<B> d,
                  double low = 0, double high = 1) const {
    detail::run_or_generic(*this, backend, t, w, b, d, low, high);
  }
  template <Backend B>
  static void generic(B& backend, ConstMatrix<B> t, ConstMatrix<B> w, ConstVector<B> b, Matrix<B> d,
                      double low, double high) {
    const Threat box{.low = low, .high = high};
    backend.for_each(
        t.rows, detail::WayToPlaneRow<B>{detail::PixelBox<typename B::Scalar>(box), t, w, b, d},
        detail::row_grain(t.cols));
  }
};
inline constexpr WayToPlanes way_to_planes{};

/// One step of FAB for the active points: x[image[r], :] goes to the plane at which the linearised
/// gap, df[r] + w[r, :].(z - x), is 0, over it by `overshoot`, and some way back to its center, at
/// most `most_bias`. x, center: [images, D]; w: [n, D]; df, image: [n]; bias: [n] the share that
/// went to the center, or empty.
/// Source: as WayToPlanes, eq. 9 to 11.
struct FabStep {
  template <Backend B>
  void operator()(B& b, const Threat& box, double most_bias, double overshoot,
                  ConstIntVector<B> image, ConstMatrix<B> center, ConstMatrix<B> w,
                  ConstVector<B> df, Matrix<B> x, Vector<B> bias) const {
    detail::run_or_generic(*this, b, box, most_bias, overshoot, image, center, w, df, x, bias);
  }
  template <Backend B>
  static void generic(B& b, const Threat& box, double most_bias, double overshoot,
                      ConstIntVector<B> image, ConstMatrix<B> center, ConstMatrix<B> w,
                      ConstVector<B> df, Matrix<B> x, Vector<B> bias) {
    b.for_each(image.size,
               detail::FabStepRow<B>{detail::PixelBox<typename B::Scalar>(box), most_bias,
                                     overshoot, image, center, w, df, x, bias},
               detail::row_grain(x.cols));
  }
};
inline constexpr FabStep fab_step{};

}  // namespace moxie
