#pragma once

#include "moxie/backend/device/kernels/strip_row.hpp"

#if defined(MOXIE_KERNELS)

/// LayerNormRows and its backward (ops/layer_norm.hpp): one read of each row, which stays in
/// registers up to 16 Held columns.
namespace moxie::detail::device {

template <class T, int Held, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    layer_norm_forward(MatrixView<const T, Space> x, const T* scale, const T* bias, T epsilon,
                       MatrixView<T, Space> y, MatrixView<T, Space> stats) {
  const StripRow row(x.rows, x.cols);
  const HeldRow<T, Held> in(row, x.row(row.row));
  T* const to = y.row(row.row);
  const T share = T(1) / static_cast<T>(x.cols);
  const T mean = share * row.sum<Held, T>([&](int i, int j) { return in(i, j); });
  const T variance = share * row.sum<Held, T>([&](int i, int j) {
    const T d = in(i, j) - mean;
    return d * d;
  });
  const T inverse = T(1) / math::sqrt(variance + epsilon);
  row.each<Held>([&](int i, int j) { to[j] = (in(i, j) - mean) * inverse * scale[j] + bias[j]; });
  if (stats && row.writes()) {
    stats(row.row, 0) = mean;
    stats(row.row, 1) = inverse;
  }
}

template <class T, int Held, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    layer_norm_backward(MatrixView<const T, Space> x, MatrixView<const T, Space> stats,
                        const T* scale, MatrixView<const T, Space> dy,
                        MatrixView<const T, Space> add, MatrixView<T, Space> dx) {
  const StripRow row(x.rows, x.cols);
  const HeldRow<T, Held> in(row, x.row(row.row));
  const HeldRow<T, Held> d(row, dy.row(row.row));
  T* const to = dx.row(row.row);
  const bool exists = row.columns > 0;
  const T mean = exists ? stats(row.row, 0) : T(0);
  const T inverse = exists ? stats(row.row, 1) : T(0);
  const T share = T(1) / static_cast<T>(x.cols);
  T plain = 0;
  T along = 0;
  row.each<Held>([&](int i, int j) {
    const T scaled = d(i, j) * scale[j];
    plain += scaled;
    along += scaled * (in(i, j) - mean);
  });
  plain = share * add_lanes(plain);
  along = share * inverse * add_lanes(along);
  const auto value = [&](int i, int j) {
    return inverse * (d(i, j) * scale[j] - plain - (in(i, j) - mean) * inverse * along);
  };
  if (add) {
    const T* const other = add.row(row.row);
    row.each<Held>([&](int i, int j) { to[j] = other[j] + value(i, j); });
  } else {
    row.each<Held>([&](int i, int j) { to[j] = value(i, j); });
  }
}

}  // namespace moxie::detail::device

#endif
