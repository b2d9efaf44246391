#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// Token-major lists that say which rows a token has: assignments [first(t), first(t + 1)), with a weight and a row
/// each; row -1 takes no part. The lists are [T, K] matrices without padding, or ragged with `first`.
template <class B>
struct RowLists {
  ConstIntVector<B> first;            ///< [T + 1], or empty: token t has [t * K, (t + 1) * K)
  Index choices = 1;                  ///< K when `first` is empty
  const std::int32_t* row = nullptr;  ///< [A]
  const typename B::Scalar* weight = nullptr;  ///< [A]; null: 1

  MOXIE_HD Index begin(Index t) const { return first ? first[t] : t * choices; }
  MOXIE_HD Index end(Index t) const { return first ? first[t + 1] : (t + 1) * choices; }
};

namespace detail {
template <Backend B>
struct SumRows {
  RowLists<B> lists;
  ConstMatrix<B> rows;
  Matrix<B> y;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    T* to = y.row(t);
    bool empty = true;
    for (Index a = lists.begin(t); a < lists.end(t); ++a) {
      if (lists.row[a] < 0) continue;
      const T* from = rows.row(lists.row[a]);
      const T w = lists.weight != nullptr ? lists.weight[a] : T(1);
      if (empty) {
        row_map(y.cols, to, [=](Index c) { return w * from[c]; });
      } else {
        row_map(y.cols, to, [=](Index c) { return to[c] + w * from[c]; });
      }
      empty = false;
    }
    if (empty)
      for (Index c = 0; c < y.cols; ++c) to[c] = 0;
  }
};
template <Backend B>
struct DotRows {
  RowLists<B> lists;
  ConstMatrix<B> rows, dy;
  typename B::Scalar* d_weight;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const T* d = dy.row(t);
    for (Index a = lists.begin(t); a < lists.end(t); ++a) {
      T sum = 0;
      if (lists.row[a] >= 0) {
        const T* from = rows.row(lists.row[a]);
        sum = strip_sum<T>(dy.cols, [=](Index c) { return d[c] * from[c]; });
      }
      d_weight[a] = sum;
    }
  }
};
}  // namespace detail

/// y[t, :] = sum over the assignments of t, in order, of weight * rows[row, :]; zero for a token without rows.
/// y: [T, N], rows: [R, N]. A gather in fixed order: no atomics, the same bits every run.
struct CombineRows {
  template <Backend B>
  void operator()(B& b, const RowLists<B>& lists, ConstMatrix<B> rows, Matrix<B> y) const {
    detail::run_or_generic(*this, b, lists, rows, y);
  }
  template <Backend B>
  static void generic(B& b, const RowLists<B>& lists, ConstMatrix<B> rows, Matrix<B> y) {
    b.for_each(y.rows, detail::SumRows<B>{lists, rows, y});
  }
};
inline constexpr CombineRows combine_rows{};

/// d_weight[a] = <dy[t, :], rows[row of a, :]>, 0 for an assignment without a row.
struct CombineRowsBackward {
  template <Backend B>
  void operator()(B& b, const RowLists<B>& lists, ConstMatrix<B> rows, ConstMatrix<B> dy,
                  typename B::Scalar* d_weight) const {
    detail::run_or_generic(*this, b, lists, rows, dy, d_weight);
  }
  template <Backend B>
  static void generic(B& b, const RowLists<B>& lists, ConstMatrix<B> rows, ConstMatrix<B> dy,
                      typename B::Scalar* d_weight) {
    b.for_each(dy.rows, detail::DotRows<B>{lists, rows, dy, d_weight});
  }
};
inline constexpr CombineRowsBackward combine_rows_backward{};

}  // namespace moxie
