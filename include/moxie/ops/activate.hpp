#pragma once

#include "moxie/ops/activation.hpp"

namespace moxie {

namespace detail {
template <Backend B, class A>
struct ActivateRow {
  ConstMatrix<B> pre;
  Matrix<B> act;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const auto* in = pre.row(r);
    row_map(pre.cols, act.row(r), [=](Index j) { return A::value(in[j]); });
  }
};
}  // namespace detail

/// act = A(pre), by element: [R, H] each, may be the same memory. Its backward is
/// ActivationBackward.
template <class A>
struct Activate {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> pre, Matrix<B> act) const {
    detail::run_or_generic(*this, b, pre, act);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> pre, Matrix<B> act) {
    b.for_each(pre.rows, detail::ActivateRow<B, A>{pre, act}, detail::row_grain(pre.cols));
  }
};
template <class A>
inline constexpr Activate<A> activate{};

}  // namespace moxie
