#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct CopyRow {
  static constexpr bool one_level = true;
  ConstMatrix<B> in;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const auto* from = in.row(in.rows == 1 ? 0 : r);
    row_map(out.cols, out.row(r), [=](Index j) { return from[j]; });
  }
};
}  // namespace detail

/// out = in, [R, C] each, of any strides; an `in` of one row is repeated.
struct CopyRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> in, Matrix<B> out) const {
    detail::run_or_generic(*this, b, in, out);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> in, Matrix<B> out) {
    b.for_each(out.rows, detail::CopyRow<B>{in, out}, detail::row_grain(out.cols));
  }
};
inline constexpr CopyRows copy_rows{};

}  // namespace moxie
