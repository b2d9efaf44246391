#pragma once

#include "moxie/backend/device/kernels/strip_row.hpp"

#if defined(MOXIE_KERNELS)

/// SoftmaxRows and its backward (ops/softmax.hpp).
namespace moxie::detail::device {

template <class T, int Held, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    softmax_forward(MatrixView<const T, Space> in, MatrixView<T, Space> out) {
  const StripRow row(in.rows, in.cols);
  HeldRow<T, Held> x(row, in.row(row.row));
  T* const to = out.row(row.row);
  const T peak = row.maximum<Held, T>([&](int i, int j) { return x(i, j); });
  const T scale = T(1) / row.sum<Held, T>([&](int i, int j) {
    const T value = math::exp(x(i, j) - peak);
    x.keep(i, j, value, to);
    return value;
  });
  row.each<Held>([&](int i, int j) { to[j] = x.kept(i, j, to) * scale; });
}

template <class T, int Held, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    softmax_backward(MatrixView<const T, Space> p, MatrixView<const T, Space> dp,
                     MatrixView<T, Space> dx, bool accumulate) {
  const StripRow row(p.rows, p.cols);
  const HeldRow<T, Held> value(row, p.row(row.row));
  const HeldRow<T, Held> d(row, dp.row(row.row));
  T* const to = dx.row(row.row);
  const T inner = row.sum<Held, T>([&](int i, int j) { return value(i, j) * d(i, j); });
  if (accumulate) {
    row.each<Held>([&](int i, int j) { to[j] = to[j] + value(i, j) * (d(i, j) - inner); });
  } else {
    row.each<Held>([&](int i, int j) { to[j] = value(i, j) * (d(i, j) - inner); });
  }
}

}  // namespace moxie::detail::device

#endif
