#pragma once

#include <cstddef>

#include "moxie/backend/device/portable.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/strip.hpp"

#if defined(MOXIE_KERNELS)

/// Rows as kernels read them: half a warp shares a row, and its lane s has columns s, s + 16, ...
/// These are the partial sums of strip_sum (core/strip.hpp), combined in the same order: a sum here
/// has the bits of the generic form, but for what a compiler contracts.
namespace moxie::detail::device {

inline constexpr int strip_lanes = static_cast<int>(strip);
inline constexpr int strip_threads = 256;                       // of a block
inline constexpr int strip_rows = strip_threads / strip_lanes;  // rows of a block

/// The sum over the lanes of a row, which all get it. All lanes of a warp call it together.
template <class T>
MOXIE_DEVICE T add_lanes(T part) {
  MOXIE_UNROLL
  for (int width = strip_lanes / 2; width > 0; width /= 2)
    part += __shfl_xor_sync(whole_warp, part, width);
  return part;
}
template <class T>
MOXIE_DEVICE T maximum_of_lanes(T part) {
  MOXIE_UNROLL
  for (int width = strip_lanes / 2; width > 0; width /= 2)
    part = math::maximum(part, __shfl_xor_sync(whole_warp, part, width));
  return part;
}

/// A thread's part of the row that its half of a warp has: strip_rows rows a block.
struct StripRow {
  Index row;
  int lane;
  int columns;  // 0 past the last row, whose lanes take part in the sums of their warp

  MOXIE_DEVICE StripRow(Index rows, Index cols)
      : row(Index{blockIdx.x} * strip_rows + static_cast<Index>(threadIdx.x) / strip_lanes),
        lane(static_cast<int>(threadIdx.x) % strip_lanes),
        columns(row < rows ? static_cast<int>(cols) : 0) {}

  /// The one lane that writes what a row has one of.
  MOXIE_DEVICE bool writes() const { return columns > 0 && lane == 0; }

  /// f(i, j) for each column j = lane + 16 i of this lane, in ascending order. Held > 0: i < Held
  /// as constants, so that arrays over i stay in registers; 0: for rows of any length, i = 0.
  template <int Held, class F>
  MOXIE_DEVICE void each(const F& f) const {
    if constexpr (Held > 0) {
      MOXIE_UNROLL
      for (int i = 0; i < Held; ++i) {
        const int j = lane + strip_lanes * i;
        if (j < columns) f(i, j);
      }
    } else {
      for (int j = lane; j < columns; j += strip_lanes) f(0, j);
    }
  }
  template <int Held, class T, class F>
  MOXIE_DEVICE T sum(const F& term) const {
    T part = 0;
    each<Held>([&](int i, int j) { part += term(i, j); });
    return add_lanes(part);
  }
  template <int Held, class T, class F>
  MOXIE_DEVICE T maximum(const F& value) const {
    T part = math::lowest<T>();
    each<Held>([&](int i, int j) { part = math::maximum(part, value(i, j)); });
    return maximum_of_lanes(part);
  }
};

/// A lane's part of a row: in registers for Held > 0, else read again each time.
template <class T, int Held>
class HeldRow {
 public:
  MOXIE_DEVICE HeldRow(const StripRow& row, const T* from) {
    row.each<Held>([&](int i, int j) { value_[i] = from[j]; });
  }
  MOXIE_DEVICE T operator()(int i, int /*j*/) const { return value_[i]; }
  /// Keeps another value of column j, in `to` if the row is not held, and gives it back.
  MOXIE_DEVICE void keep(int i, int /*j*/, T value, T* /*to*/) { value_[i] = value; }
  MOXIE_DEVICE T kept(int i, int /*j*/, const T* /*to*/) const { return value_[i]; }

 private:
  T value_[static_cast<std::size_t>(Held)];
};
template <class T>
class HeldRow<T, 0> {
 public:
  MOXIE_DEVICE HeldRow(const StripRow& /*row*/, const T* from) : from_(from) {}
  MOXIE_DEVICE T operator()(int /*i*/, int j) const { return from_[j]; }
  MOXIE_DEVICE void keep(int /*i*/, int j, T value, T* to) { to[j] = value; }
  MOXIE_DEVICE T kept(int /*i*/, int j, const T* to) const { return to[j]; }

 private:
  const T* from_;
};

}  // namespace moxie::detail::device

#endif
