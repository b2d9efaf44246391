#pragma once

#include "moxie/core/view.hpp"

namespace moxie {

/// Rows of `x`, grouped by expert, without a copy: row r is `scale[r] * x[index[r]]`, and expert e owns rows
/// [offset[e], offset[e + 1]).
///
/// `index` empty means row r of `x` itself; `scale` empty means 1. `offset` has E + 1 entries and lies in the
/// backend's memory, so on a device only the kernels know how many rows there are: `rows` is what the
/// buffers hold, and everything at or past offset[E] is neither read nor written.
template <class B>
struct Rows {
  ConstMatrix<B> x;
  ConstIntVector<B> index{};
  ConstVector<B> scale{};
  ConstIntVector<B> offset{};
  Index rows = 0;
  /// Rows of each expert, if the host knows that all have as many: offset[e] = e * each. Else 0.
  Index each = 0;

  MOXIE_HD Index experts() const { return offset.size - 1; }
  /// Row of `x` that row r reads.
  MOXIE_HD Index source(Index r) const { return index ? index[r] : r; }
  MOXIE_HD typename B::Scalar factor(Index r) const {
    return scale ? scale[r] : static_cast<typename B::Scalar>(1);
  }
  MOXIE_HD typename B::Scalar operator()(Index r, Index c) const {
    return factor(r) * x(source(r), c);
  }
};

/// The expert that owns row r, or -1 for a row past the last. Cost: O(log E).
MOXIE_HD inline Index expert_of_row(const std::int32_t* offset, Index experts, Index r) {
  if (r < offset[0] || r >= offset[experts]) return -1;
  Index low = 0;
  Index high = experts;  // invariant: offset[low] <= r < offset[high]
  while (high - low > 1) {
    const Index middle = low + (high - low) / 2;
    if (offset[middle] <= r) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace moxie
