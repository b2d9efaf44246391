#pragma once

#include "moxie/core/rows.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/activation.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B, class A>
struct GatedActivationRow {
  ConstMatrix<B> bias;
  ConstIntVector<B> offset;
  Matrix<B> pre, act;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index e = expert_of_row(offset.data, offset.size - 1, r);
    if (e < 0) return;
    T* gate = pre.row(r);
    if (bias) {
      const T* add = bias.row(e);
      row_map(pre.cols, gate, [=](Index j) { return gate[j] + add[j]; });
    }
    const T* up = gate + act.cols;
    row_map(act.cols, act.row(r), [=](Index j) { return A::value(gate[j]) * up[j]; });
  }
};

template <Backend B, class A>
struct GatedActivationRowBackward {
  ConstIntVector<B> offset;
  ConstMatrix<B> pre;
  Matrix<B> d;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    if (r < offset[0] || r >= offset[offset.size - 1]) return;
    const Index hidden = d.cols / 2;
    const T* gate = pre.row(r);
    const T* up = gate + hidden;
    T* d_gate = d.row(r);
    T* d_up = d_gate + hidden;
    row_map(hidden, d_up, [=](Index j) { return d_gate[j] * A::value(gate[j]); });
    row_map(hidden, d_gate, [=](Index j) { return d_gate[j] * up[j] * A::derivative(gate[j]); });
  }
};
}  // namespace detail

/// pre += bias[expert of the row], if there is any; then act = A(gate) * up, where a row of pre is
/// its gate and what that gates. For the rows inside `offset`. bias: [E, 2H] or empty, pre: [R, 2H],
/// act: [R, H].
template <class A>
struct GatedActivation {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> bias, ConstIntVector<B> offset, Matrix<B> pre,
                  Matrix<B> act) const {
    detail::run_or_generic(*this, b, bias, offset, pre, act);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> bias, ConstIntVector<B> offset, Matrix<B> pre,
                      Matrix<B> act) {
    b.for_each(pre.rows, detail::GatedActivationRow<B, A>{bias, offset, pre, act});
  }
};
template <class A>
inline constexpr GatedActivation<A> gated_activation{};

/// The gradient of pre from that of act, which is in the first half of d. pre, d: [R, 2H].
template <class A>
struct GatedActivationBackward {
  template <Backend B>
  void operator()(B& b, ConstIntVector<B> offset, ConstMatrix<B> pre, Matrix<B> d) const {
    detail::run_or_generic(*this, b, offset, pre, d);
  }
  template <Backend B>
  static void generic(B& b, ConstIntVector<B> offset, ConstMatrix<B> pre, Matrix<B> d) {
    b.for_each(pre.rows, detail::GatedActivationRowBackward<B, A>{offset, pre, d});
  }
};
template <class A>
inline constexpr GatedActivationBackward<A> gated_activation_backward{};

}  // namespace moxie
