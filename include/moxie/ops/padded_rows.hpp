#pragma once

#include <cstdint>

#include "moxie/core/rows.hpp"
#include "moxie/ops/accelerate.hpp"

namespace moxie {

/// Rows of experts that have `each` places whether they are taken or not: row q is of expert q / each, its
/// (q % each)-th, if it has so many.
template <class B>
struct PaddedRows {
  /// [E + 1] rows of the experts without padding, which are SparseRouting's
  ConstIntVector<B> offset;
  Index each = 0;
  ConstIntVector<B> token, assignment;         ///< of those
  const typename B::Scalar* weight = nullptr;  ///< of assignments; null: 1

  /// The row without padding, or -1.
  MOXIE_HD Index of(Index q) const {
    const auto e = static_cast<std::uint32_t>(q) / static_cast<std::uint32_t>(each);
    const Index r = offset[e] + (q - e * each);
    return r < offset[e + 1] ? r : -1;
  }
  MOXIE_HD typename B::Scalar factor(Index r) const {
    return weight != nullptr ? weight[assignment[r]] : static_cast<typename B::Scalar>(1);
  }
};

namespace detail {
/// By element: neighbouring threads of a device read neighbours.
template <Backend B>
struct CopyPaddedRow {
  PaddedRows<B> rows;
  ConstMatrix<B> from;
  Matrix<B> to;

  MOXIE_HD void operator()(Index q, Index c) const {
    using T = typename B::Scalar;
    const Index r = rows.of(q);
    to(q, c) = r < 0 ? T(0) : rows.factor(r) * from(rows.token[r], c);
  }
};
}  // namespace detail

/// to[q, :] = weight * from[token, :], zero for a row that is padding.
struct CopyPaddedRows {
  template <Backend B>
  void operator()(B& b, const PaddedRows<B>& rows, ConstMatrix<B> from, Matrix<B> to) const {
    detail::run_or_generic(*this, b, rows, from, to);
  }
  template <Backend B>
  static void generic(B& b, const PaddedRows<B>& rows, ConstMatrix<B> from, Matrix<B> to) {
    b.for_each(to.rows, to.cols, detail::CopyPaddedRow<B>{rows, from, to});
  }
};
inline constexpr CopyPaddedRows copy_padded_rows{};

}  // namespace moxie
