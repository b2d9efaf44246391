#pragma once

#include "moxie/backend/device/kernels/strip_row.hpp"

#if defined(MOXIE_KERNELS)

/// SoftmaxCrossEntropy, SigmoidCrossEntropy (ops/cross_entropy.hpp) and KlDivergence
/// (ops/kl_divergence.hpp). Rows are read again for each sum: scores of classes are few.
namespace moxie::detail::device {

template <class T, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    softmax_cross_entropy_rows(MatrixView<const T, Space> scores, MatrixView<const T, Space> labels,
                               VectorView<T, Space> losses, MatrixView<T, Space> d_scores,
                               T factor) {
  const StripRow row(scores.rows, scores.cols);
  const T* const z = scores.row(row.row);
  const T* const y = labels.row(row.row);
  const T peak = row.maximum<0, T>([&](int, int j) { return z[j]; });
  const T sum = row.sum<0, T>([&](int, int j) { return math::exp(z[j] - peak); });
  const T mass = row.sum<0, T>([&](int, int j) { return y[j]; });
  if (losses) {
    const T along = row.sum<0, T>([&](int, int j) { return y[j] * (z[j] - peak); });
    if (row.writes()) losses[row.row] = mass * math::log(sum) - along;
  }
  if (d_scores) {
    const T scale = mass / sum;
    T* const to = d_scores.row(row.row);
    row.each<0>([&](int, int j) { to[j] = factor * (scale * math::exp(z[j] - peak) - y[j]); });
  }
}

template <class T, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    sigmoid_cross_entropy_rows(MatrixView<const T, Space> scores, MatrixView<const T, Space> labels,
                               VectorView<T, Space> losses, MatrixView<T, Space> d_scores,
                               T factor) {
  const StripRow row(scores.rows, scores.cols);
  const T* const z = scores.row(row.row);
  const T* const y = labels.row(row.row);
  if (losses) {
    const T loss = row.sum<0, T>([&](int, int j) { return math::softplus(z[j]) - y[j] * z[j]; });
    if (row.writes()) losses[row.row] = loss;
  }
  if (d_scores) {
    T* const to = d_scores.row(row.row);
    row.each<0>([&](int, int j) { to[j] = factor * (math::sigmoid(z[j]) - y[j]); });
  }
}

template <class T, class Space>
MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(strip_threads)
    kl_divergence_rows(MatrixView<const T, Space> p, MatrixView<const T, Space> q,
                       VectorView<T, Space> losses, MatrixView<T, Space> dp,
                       MatrixView<T, Space> dq, T factor) {
  const StripRow row(p.rows, p.cols);
  const T* const a = p.row(row.row);
  const T* const b = q.row(row.row);
  const T a_peak = row.maximum<0, T>([&](int, int j) { return a[j]; });
  const T b_peak = row.maximum<0, T>([&](int, int j) { return b[j]; });
  const T a_sum = row.sum<0, T>([&](int, int j) { return math::exp(a[j] - a_peak); });
  const T b_sum = row.sum<0, T>([&](int, int j) { return math::exp(b[j] - b_peak); });
  const T shift = (b_peak - a_peak) + (math::log(b_sum) - math::log(a_sum));
  const T a_scale = T(1) / a_sum;
  const T b_scale = T(1) / b_sum;
  const T loss = row.sum<0, T>(
      [&](int, int j) { return a_scale * math::exp(a[j] - a_peak) * (a[j] - b[j] + shift); });
  if (losses && row.writes()) losses[row.row] = loss;
  T* const to_p = dp ? dp.row(row.row) : nullptr;
  T* const to_q = dq ? dq.row(row.row) : nullptr;
  row.each<0>([&](int, int j) {
    const T power = math::exp(a[j] - a_peak);
    if (to_p != nullptr) to_p[j] = factor * a_scale * power * (a[j] - b[j] + shift - loss);
    if (to_q != nullptr) to_q[j] = factor * (b_scale * math::exp(b[j] - b_peak) - a_scale * power);
  });
}

}  // namespace moxie::detail::device

#endif
