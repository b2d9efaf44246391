#pragma once

#include "moxie/backend/concept.hpp"
#include "moxie/backend/cpu/level.hpp"

namespace moxie::detail {

template <class T>
struct FillElement {
  static constexpr bool elementwise = true;
  T* out;
  T value;
  MOXIE_INLINE void operator()(Index i) const { out[i] = value; }
};

/// out[c] = sum of f(r, c) over the rows of one chunk, ascending.
template <class T, class F>
struct ChunkSums {
  const F& f;
  Index first_row, last_row, cols;
  T* out;

  template <class L>
  MOXIE_INLINE void operator()(L) const {
    const F g = f;
    Index c = 0;
    for (; c + loop_strip <= cols; c += loop_strip) {
      T sum[static_cast<std::size_t>(loop_strip)] = {};
      for (Index r = first_row; r < last_row; ++r) {
        MOXIE_INDEPENDENT
        for (Index k = 0; k < loop_strip; ++k) sum[k] += g(r, c + k);
      }
      for (Index k = 0; k < loop_strip; ++k) out[c + k] = sum[k];
    }
    T sum[static_cast<std::size_t>(loop_strip)] = {};
    for (Index r = first_row; r < last_row; ++r) {
      MOXIE_INDEPENDENT
      for (Index k = 0; k < cols - c; ++k) sum[k] += g(r, c + k);
    }
    for (Index k = 0; k < cols - c; ++k) out[c + k] = sum[k];
  }
};

/// out[c] += sums[0, c] + sums[1, c] + ...
template <class T>
struct AddChunks {
  MatrixView<const T> sums;
  T* out;

  MOXIE_INLINE void operator()(Index c) const {
    T sum = 0;
    for (Index chunk = 0; chunk < sums.rows; ++chunk) sum += sums(chunk, c);
    out[c] += sum;
  }
};

}  // namespace moxie::detail
