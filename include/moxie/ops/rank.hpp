#pragma once

#include "moxie/core/host_device.hpp"
#include "moxie/core/view.hpp"

/// Ranks of the columns of a row: the larger score first, of equal ones the lower column.
namespace moxie::detail {

/// Whether score `a` of column i ranks above score `b` of column j: 1 or 0, without a branch, since nobody can predict
/// it.
template <class T>
MOXIE_HD MOXIE_INLINE int ranks_above(T a, Index i, T b, Index j) {
  return static_cast<int>(a > b) | (static_cast<int>(a == b) & static_cast<int>(i < j));
}
/// The column below n that ranks right behind `last` (-1: the first of all) by score(column); -1: none.   Cost: O(n).
template <class F>
MOXIE_HD MOXIE_INLINE Index next_in_rank(Index n, Index last, const F& score) {
  Index next = -1;
  for (Index e = 0; e < n; ++e)
    if ((last < 0 || ranks_above(score(last), last, score(e), e) != 0) &&
        (next < 0 || score(e) > score(next)))
      next = e;
  return next;
}
/// The column of the given rank (0 = the first), or the last column if there are not as many; -1 for a negative rank.
/// Cost: O(n rank).
template <class F>
MOXIE_HD MOXIE_INLINE Index column_of_rank(Index n, Index rank, const F& score) {
  Index last = -1;
  for (Index step = 0; step <= rank && step < n; ++step) last = next_in_rank(n, last, score);
  return last;
}

}  // namespace moxie::detail
