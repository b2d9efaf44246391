#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct SoftmaxCrossEntropyRow {
  ConstMatrix<B> scores, labels;
  Vector<B> losses;
  Matrix<B> d_scores;
  typename B::Scalar factor;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* z = scores.row(r);
    const T* y = labels.row(r);
    const Index n = scores.cols;
    const T peak = strip_maximum<T>(n, [=](Index j) { return z[j]; });
    const T sum = strip_sum<T>(n, [=](Index j) { return math::exp(z[j] - peak); });
    const T mass = strip_sum<T>(n, [=](Index j) { return y[j]; });
    if (losses)
      losses[r] =
          mass * math::log(sum) - strip_sum<T>(n, [=](Index j) { return y[j] * (z[j] - peak); });
    if (d_scores) {
      const T scale = mass / sum;
      const T by = factor;
      row_map(n, d_scores.row(r),
              [=](Index j) { return by * (scale * math::exp(z[j] - peak) - y[j]); });
    }
  }
};

template <Backend B>
struct SigmoidCrossEntropyRow {
  ConstMatrix<B> scores, labels;
  Vector<B> losses;
  Matrix<B> d_scores;
  typename B::Scalar factor;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* z = scores.row(r);
    const T* y = labels.row(r);
    const Index n = scores.cols;
    if (losses)
      losses[r] = strip_sum<T>(n, [=](Index j) { return math::softplus(z[j]) - y[j] * z[j]; });
    if (d_scores) {
      const T by = factor;
      row_map(n, d_scores.row(r), [=](Index j) { return by * (math::sigmoid(z[j]) - y[j]); });
    }
  }
};

/// factor / rows: what a mean over the rows puts on each of them.
template <class T>
T mean_factor(double factor, Index rows) {
  return rows > 0 ? static_cast<T>(factor / static_cast<double>(rows)) : T(0);
}
}  // namespace detail

/// losses[i] = -sum over c of labels[i, c] * log softmax(scores[i, :])[c], and d_scores, the
/// gradient of factor * mean(losses). Labels are any weights: one-hot, smoothed, mixed. scores,
/// labels, d_scores: [images, classes]; losses: [images], not scaled. losses or d_scores may be
/// empty (not computed). Both are overwritten. Cost: O(images * classes); no scratch.
struct SoftmaxCrossEntropy {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> scores, ConstMatrix<B> labels, Vector<B> losses,
                  Matrix<B> d_scores, double factor = 1) const {
    detail::run_or_generic(*this, b, scores, labels, losses, d_scores, factor);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> scores, ConstMatrix<B> labels, Vector<B> losses,
                      Matrix<B> d_scores, double factor) {
    using T = typename B::Scalar;
    b.for_each(scores.rows,
               detail::SoftmaxCrossEntropyRow<B>{scores, labels, losses, d_scores,
                                                 detail::mean_factor<T>(factor, scores.rows)});
  }
};
inline constexpr SoftmaxCrossEntropy softmax_cross_entropy{};

/// losses[i] = sum over c of the binary cross-entropy of sigmoid(scores[i, c]) against labels[i,
/// c], and d_scores, the gradient of factor * mean(losses). Shapes and rules as for
/// SoftmaxCrossEntropy. Source: V-MoE, sigmoid_xent: a sum over classes, a mean over images.
struct SigmoidCrossEntropy {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> scores, ConstMatrix<B> labels, Vector<B> losses,
                  Matrix<B> d_scores, double factor = 1) const {
    detail::run_or_generic(*this, b, scores, labels, losses, d_scores, factor);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> scores, ConstMatrix<B> labels, Vector<B> losses,
                      Matrix<B> d_scores, double factor) {
    using T = typename B::Scalar;
    b.for_each(scores.rows,
               detail::SigmoidCrossEntropyRow<B>{scores, labels, losses, d_scores,
                                                 detail::mean_factor<T>(factor, scores.rows)});
  }
};
inline constexpr SigmoidCrossEntropy sigmoid_cross_entropy{};

}  // namespace moxie
