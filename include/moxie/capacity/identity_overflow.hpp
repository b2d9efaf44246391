#pragma once

#include "moxie/capacity/overflow.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// The weight of a dropped choice is returned to the token itself: y[t] += weight * x[t], so an
/// expert that has no room acts as the identity. Needs experts whose output is as wide as their
/// input.
struct IdentityOverflow {
  bool reroutes() const noexcept { return false; }
  bool returns_dropped() const noexcept { return true; }
  friend constexpr bool operator==(const IdentityOverflow&, const IdentityOverflow&) = default;
};

namespace detail {
/// to[t, :] += (sum of the weights of t's dropped choices) * from[t, :].
template <Backend B>
struct AddDropped {
  ConstIntMatrix<B> choice, row;
  ConstMatrix<B> weight, from;
  Matrix<B> to;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    T w = 0;
    for (Index k = 0; k < choice.cols; ++k)
      if (choice(t, k) >= 0 && row(t, k) < 0) w += weight(t, k);
    if (!(w != T(0))) return;
    T* out = to.row(t);
    const T* in = from.row(t);
    row_map(to.cols, out, [=](Index c) { return out[c] + w * in[c]; });
  }
};
/// d_weight of t's dropped choices = <dy[t, :], x[t, :]>.
template <Backend B>
struct DroppedWeight {
  ConstIntMatrix<B> choice, row;
  ConstMatrix<B> x, dy;
  Matrix<B> d_weight;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    bool any = false;
    for (Index k = 0; k < choice.cols; ++k) any = any || (choice(t, k) >= 0 && row(t, k) < 0);
    if (!any) return;
    const T* a = x.row(t);
    const T* d = dy.row(t);
    const T sum = strip_sum<T>(x.cols, [=](Index c) { return a[c] * d[c]; });
    for (Index k = 0; k < choice.cols; ++k)
      if (choice(t, k) >= 0 && row(t, k) < 0) d_weight(t, k) = sum;
  }
};
}  // namespace detail

/// y[t, :] += w * x[t, :], w the weight of t's dropped choices: after `combine` has written y.   x,
/// y: [T, D]
template <Backend B>
void return_dropped(B& b, const SparseRouting<B>& r, ConstMatrix<B> x, Matrix<B> y) {
  b.for_each(x.rows, detail::AddDropped<B>{r.choice, r.row, r.weight, x, y},
             detail::row_grain(x.cols));
}
/// dx[t, :] += w * dy[t, :] unless dx is empty, after `dispatch_backward` has written it; d_weight
/// of the dropped choices, which `combine_backward` leaves 0, becomes <dy[t, :], x[t, :]> unless
/// d_weight is empty.
/// x, dy, dx: [T, D]; d_weight: [T, K]
template <Backend B>
void return_dropped_backward(B& b, const SparseRouting<B>& r, ConstMatrix<B> x, ConstMatrix<B> dy,
                             Matrix<B> dx, Matrix<B> d_weight) {
  if (d_weight)
    b.for_each(x.rows, detail::DroppedWeight<B>{r.choice, r.row, x, dy, d_weight},
               detail::row_grain(x.cols));
  if (dx)
    b.for_each(x.rows, detail::AddDropped<B>{r.choice, r.row, r.weight, dy, dx},
               detail::row_grain(x.cols));
}

}  // namespace moxie
