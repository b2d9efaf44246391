#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct FillRow {
  static constexpr bool one_level = true;
  typename B::Scalar value;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const auto v = value;
    row_map(out.cols, out.row(r), [=](Index) { return v; });
  }
};
}  // namespace detail

/// Every element of out [R, C], of any stride, = value.
struct FillRows {
  template <Backend B>
  void operator()(B& b, typename B::Scalar value, Matrix<B> out) const {
    detail::run_or_generic(*this, b, value, out);
  }
  template <Backend B>
  static void generic(B& b, typename B::Scalar value, Matrix<B> out) {
    b.for_each(out.rows, detail::FillRow<B>{value, out}, detail::row_grain(out.cols));
  }
};
inline constexpr FillRows fill_rows{};

}  // namespace moxie
