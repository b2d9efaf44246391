#pragma once

#include "moxie/core/rows.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct GatherRow {
  Rows<B> rows;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    if (r < rows.offset[0] || r >= rows.offset[rows.experts()]) return;
    const auto* from = rows.x.row(rows.source(r));
    const auto factor = rows.factor(r);
    row_map(out.cols, out.row(r), [=](Index c) { return factor * from[c]; });
  }
};
}  // namespace detail

/// out[r, :] = rows(r, :): the rows of experts, copied, for products that cannot gather while they
/// read. out: [R, D] for R >= rows.rows; rows that no expert owns are neither read nor written.
struct GatherRows {
  template <Backend B>
  void operator()(B& b, const Rows<B>& rows, Matrix<B> out) const {
    detail::run_or_generic(*this, b, rows, out);
  }
  template <Backend B>
  static void generic(B& b, const Rows<B>& rows, Matrix<B> out) {
    b.for_each(rows.rows, detail::GatherRow<B>{rows, out}, detail::row_grain(out.cols));
  }
};
inline constexpr GatherRows gather_rows{};

}  // namespace moxie
