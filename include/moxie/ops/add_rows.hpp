#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct AddRow {
  ConstMatrix<B> a, b;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const auto* left = a.row(r);
    const auto* right = b.row(r);
    row_map(out.cols, out.row(r), [=](Index j) { return left[j] + right[j]; });
  }
};

template <Backend B>
struct AddVectorRow {
  ConstMatrix<B> in;
  ConstVector<B> add;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const auto* from = in.row(r);
    const auto* other = add.data;
    row_map(out.cols, out.row(r), [=](Index j) { return from[j] + other[j]; });
  }
};
}  // namespace detail

/// out = a + b, by element: [R, C] each; out may be a or b. The sum of a residual block.
struct AddRows {
  template <Backend B>
  void operator()(B& backend, ConstMatrix<B> a, ConstMatrix<B> b, Matrix<B> out) const {
    detail::run_or_generic(*this, backend, a, b, out);
  }
  template <Backend B>
  static void generic(B& backend, ConstMatrix<B> a, ConstMatrix<B> b, Matrix<B> out) {
    backend.for_each(out.rows, detail::AddRow<B>{a, b, out}, detail::row_grain(out.cols));
  }
};
inline constexpr AddRows add_rows{};

/// out[r, :] = in[r, :] + add: in, out [R, C], may be the same memory; add [C].
struct AddVector {
  template <Backend B>
  void operator()(B& backend, ConstMatrix<B> in, ConstVector<B> add, Matrix<B> out) const {
    detail::run_or_generic(*this, backend, in, add, out);
  }
  template <Backend B>
  static void generic(B& backend, ConstMatrix<B> in, ConstVector<B> add, Matrix<B> out) {
    backend.for_each(out.rows, detail::AddVectorRow<B>{in, add, out}, detail::row_grain(out.cols));
  }
};
inline constexpr AddVector add_vector{};

}  // namespace moxie
