#pragma once

#include "moxie/core/math.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// An activation is a scalar functor with `value` and `derivative`; a user's own works in every operation that
/// takes one. Write it without branches, so that loops over it vectorise.
template <class A, class T>
concept Activation = requires(T x) {
  { A::value(x) } -> std::same_as<T>;
  { A::derivative(x) } -> std::same_as<T>;
};

namespace detail {
/// sigmoid(x), and 0 below -40, where it is 4e-18: what is multiplied with less soon is a denormal number, and a product of
/// those takes ten times as long.
template <std::floating_point T>
MOXIE_HD MOXIE_INLINE T gate_sigmoid(T x) {
  return math::select(x < T(-40), T(0), math::sigmoid(x));
}
}  // namespace detail

/// x Phi(x) in the tanh approximation, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as V-MoE and flax.
/// Computed as x sigmoid(2u), which is the same function.
struct Gelu {
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T value(T x) {
    return x * detail::gate_sigmoid(twice_u(x));
  }
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T derivative(T x) {
    const T s = detail::gate_sigmoid(twice_u(x));
    return s + x * s * (T(1) - s) * T(1.5957691216057308) * (T(1) + T(0.134145) * x * x);
  }

 private:
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T twice_u(T x) {
    return T(1.5957691216057308) * (x + T(0.044715) * x * x * x);  // 2 sqrt(2 / pi)
  }
};

/// x Phi(x), exact.
struct GeluErf {
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T value(T x) {
    return x * math::normal_distribution(x);
  }
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T derivative(T x) {
    return math::normal_distribution(x) + x * math::normal_density(x);
  }
};

struct Relu {
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T value(T x) {
    return math::select(x > T(0), x, T(0));
  }
  /// 0 at 0.
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T derivative(T x) {
    return math::select(x > T(0), T(1), T(0));
  }
};

/// x sigmoid(x), also called swish.
struct Silu {
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T value(T x) {
    return x * detail::gate_sigmoid(x);
  }
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T derivative(T x) {
    const T s = detail::gate_sigmoid(x);
    return s + x * s * (T(1) - s);
  }
};

struct Tanh {
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T value(T x) {
    return math::tanh(x);
  }
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T derivative(T x) {
    const T y = math::tanh(x);
    return T(1) - y * y;
  }
};

struct Identity {
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T value(T x) {
    return x;
  }
  template <std::floating_point T>
  MOXIE_HD MOXIE_INLINE static T derivative(T) {
    return T(1);
  }
};

namespace detail {
template <Backend B, class A>
struct BiasActivationRow {
  ConstMatrix<B> bias;
  ConstIntVector<B> offset;
  Matrix<B> pre, act;
  bool keep_pre;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    Index e = 0;
    if (offset) {
      e = expert_of_row(offset.data, offset.size - 1, r);
      if (e < 0) return;
    }
    const T* add = bias.row(e);
    T* in = pre.row(r);
    T* out = act.row(r);
    if (keep_pre) {
      row_map(pre.cols, in, [=](Index j) { return in[j] + add[j]; });
      row_map(pre.cols, out, [=](Index j) { return A::value(in[j]); });
    } else {
      row_map(pre.cols, out, [=](Index j) { return A::value(in[j] + add[j]); });
    }
  }
};

template <Backend B, class A>
struct ActivationRowBackward {
  ConstIntVector<B> offset;
  ConstMatrix<B> pre;
  Matrix<B> d;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    if (offset && (r < offset[0] || r >= offset[offset.size - 1])) return;
    const T* in = pre.row(r);
    T* out = d.row(r);
    row_map(pre.cols, out, [=](Index j) { return out[j] * A::derivative(in[j]); });
  }
};
}  // namespace detail

/// act = A(pre + bias[e]), pre = pre + bias[e] (kept only with `keep_pre`; else pre is left as it was).
/// pre, act: [R, H], may be the same memory without keep_pre. bias: [1, H] with an empty offset, else [E, H] and row r
/// takes the bias of the expert that owns it.
template <class A>
struct BiasActivation {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> bias, ConstIntVector<B> offset, Matrix<B> pre, Matrix<B> act,
                  bool keep_pre) const {
    detail::run_or_generic(*this, b, bias, offset, pre, act, keep_pre);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> bias, ConstIntVector<B> offset, Matrix<B> pre,
                      Matrix<B> act, bool keep_pre) {
    b.for_each(pre.rows, detail::BiasActivationRow<B, A>{bias, offset, pre, act, keep_pre});
  }
};
template <class A>
inline constexpr BiasActivation<A> bias_activation{};

/// d *= A'(pre), by element. pre, d: [R, H]; rows outside `offset` are left alone.
template <class A>
struct ActivationBackward {
  template <Backend B>
  void operator()(B& b, ConstIntVector<B> offset, ConstMatrix<B> pre, Matrix<B> d) const {
    detail::run_or_generic(*this, b, offset, pre, d);
  }
  template <Backend B>
  static void generic(B& b, ConstIntVector<B> offset, ConstMatrix<B> pre, Matrix<B> d) {
    b.for_each(pre.rows, detail::ActivationRowBackward<B, A>{offset, pre, d});
  }
};
template <class A>
inline constexpr ActivationBackward<A> activation_backward{};

/// out[r, :] += bias[e, :] of the expert that owns row r; bias [1, H] and an empty offset for all rows alike.
template <Backend B>
void add_bias(B& b, ConstMatrix<B> bias, ConstIntVector<B> offset, Matrix<B> out) {
  bias_activation<Identity>(b, bias, offset, out, out, false);
}

}  // namespace moxie
