#pragma once

#include "moxie/ops/cross_entropy.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct KlDivergenceRow {
  ConstMatrix<B> p, q;
  Vector<B> losses;
  Matrix<B> dp, dq;
  typename B::Scalar factor;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* a = p.row(r);
    const T* b = q.row(r);
    const Index n = p.cols;
    const T a_peak = strip_maximum<T>(n, [=](Index j) { return a[j]; });
    const T b_peak = strip_maximum<T>(n, [=](Index j) { return b[j]; });
    const T a_sum = strip_sum<T>(n, [=](Index j) { return math::exp(a[j] - a_peak); });
    const T b_sum = strip_sum<T>(n, [=](Index j) { return math::exp(b[j] - b_peak); });
    // log softmax(p)[j] - log softmax(q)[j] = (a[j] - b[j]) + shift
    const T shift = (b_peak - a_peak) + (math::log(b_sum) - math::log(a_sum));
    const T a_scale = T(1) / a_sum;
    const T b_scale = T(1) / b_sum;
    const T loss = strip_sum<T>(
        n, [=](Index j) { return a_scale * math::exp(a[j] - a_peak) * (a[j] - b[j] + shift); });
    const T by = factor;
    if (losses) losses[r] = loss;
    if (dp)
      row_map(n, dp.row(r), [=](Index j) {
        return by * a_scale * math::exp(a[j] - a_peak) * (a[j] - b[j] + shift - loss);
      });
    if (dq)
      row_map(n, dq.row(r), [=](Index j) {
        return by * (b_scale * math::exp(b[j] - b_peak) - a_scale * math::exp(a[j] - a_peak));
      });
  }
};
}  // namespace detail

/// losses[i] = KL(softmax(p[i, :]) || softmax(q[i, :])), and the gradients dp, dq of factor *
/// mean(losses). p, q, dp, dq: [images, classes], scores before the softmax; losses: [images], not
/// scaled. losses, dp and dq may be empty (not computed) and are overwritten. Cost: O(images *
/// classes); no scratch.
struct KlDivergence {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> p, ConstMatrix<B> q, Vector<B> losses, Matrix<B> dp,
                  Matrix<B> dq, double factor = 1) const {
    detail::run_or_generic(*this, b, p, q, losses, dp, dq, factor);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> p, ConstMatrix<B> q, Vector<B> losses, Matrix<B> dp,
                      Matrix<B> dq, double factor) {
    using T = typename B::Scalar;
    b.for_each(p.rows, detail::KlDivergenceRow<B>{p, q, losses, dp, dq,
                                                  detail::mean_factor<T>(factor, p.rows)});
  }
};
inline constexpr KlDivergence kl_divergence{};

}  // namespace moxie
