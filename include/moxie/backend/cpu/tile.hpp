#pragma once

#include "moxie/backend/cpu/simd.hpp"

namespace moxie::detail {

/// The innermost product: `rows` x (N vectors) sums in registers, over `inner` steps in ascending order.
///
/// Each element is one chain of multiply-adds from zero, so its bits depend neither on the tile it fell into
/// nor on where the inner dimension was split (`first`, `last`: sums travel through memory, unrounded).
/// The loop is a trampoline of its own: inlined into its caller, it would spill.
template <class T, class L, int N>
struct Tile {
  static constexpr int rows = L::tile_rows(N);
  static constexpr Index cols = N * lanes<T, L>;

  Index inner;
  const T* const* a;  // element (r, p) is a[r][p * a_step]
  Index a_step;
  const T* b;  // element (p, j) is b[p * b_step + j]
  Index b_step;
  T* sums;  // unfinished sums, `sum_step` from row to row
  Index sum_step;
  T* const* c;     // row pointers of the result; surplus rows of an edge tile point to a spare one
  const T* alpha;  // one for each row
  T beta;
  bool first, last;
  // what will be read after this tile, fetched meanwhile: rows as wide as the tile every
  const T* next = nullptr;
  Index next_step = 0;  // `next_step` elements, `next_rows` of them in eight steps
  Index next_rows = 0;
  Index c_ahead = 0;  // the elements of c that are fetched begin so far behind the tile's own

  MOXIE_INLINE void operator()(L) const {
    using V = Vec<T, L>;
    constexpr Index width = lanes<T, L>;
    constexpr Index ahead = 24;  // steps from fetching a row of b to using it: about 100 ns
    constexpr Index fetch = 8;   // steps of which rows are fetched together
    if (last) {
      MOXIE_CPU_UNROLL
      for (int r = 0; r < rows; ++r) {
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) __builtin_prefetch(c[r] + c_ahead + j * width, 1);
      }
    }
    Array<const T*, rows> row;
    Array<Array<V, N>, rows> sum;
    MOXIE_CPU_UNROLL
    for (int r = 0; r < rows; ++r) {
      row[r] = a[r];
      MOXIE_CPU_UNROLL
      for (int j = 0; j < N; ++j) sum[r][j] = V{};
    }
    if (!first) {
      MOXIE_CPU_UNROLL
      for (int r = 0; r < rows; ++r) {
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) load(sum[r][j], sums + r * sum_step + j * width);
      }
    }
    const T* right = b;
    const T* fetched = next;
    const Index right_step = b_step;
    const Index left_step = a_step;
    const Index end = inner * left_step;
    for (Index p = 0; p != end;) {
      // Some steps at a time: the pointers of what is fetched would not stay in registers during the steps.
      const Index stop = end - p > fetch * left_step ? p + fetch * left_step : end;
      const T* soon = right + ahead * right_step;
      for (Index s = 0; s < fetch; ++s, soon += right_step) {
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) __builtin_prefetch(soon + j * width);
      }
      for (Index s = 0; s < next_rows; ++s, fetched += next_step) {
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) __builtin_prefetch(fetched + j * width, 0, 2);
      }
      for (; p != stop; p += left_step, right += right_step) {
        Array<V, N> factor;
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) load(factor[j], right + j * width);
        MOXIE_CPU_UNROLL
        for (int r = 0; r < rows; ++r) {
          const V x = row[r][p] - V{};
          MOXIE_CPU_UNROLL
          for (int j = 0; j < N; ++j) sum[r][j] += x * factor[j];
        }
      }
    }
    if (!last) {
      MOXIE_CPU_UNROLL
      for (int r = 0; r < rows; ++r) {
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) store(sums + r * sum_step + j * width, sum[r][j]);
      }
    } else if (beta == T(0)) {
      MOXIE_CPU_UNROLL
      for (int r = 0; r < rows; ++r) {
        const V scale = alpha[r] - V{};
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) {
          const V y = scale * sum[r][j];
          store(c[r] + j * width, y);
        }
      }
    } else {
      const V keep = beta - V{};
      MOXIE_CPU_UNROLL
      for (int r = 0; r < rows; ++r) {
        const V scale = alpha[r] - V{};
        MOXIE_CPU_UNROLL
        for (int j = 0; j < N; ++j) {
          V y;
          load(y, c[r] + j * width);
          y = keep * y;
          y += scale * sum[r][j];
          store(c[r] + j * width, y);
        }
      }
    }
  }
};

}  // namespace moxie::detail
