#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct LayerNormRow {
  ConstMatrix<B> x;
  ConstVector<B> scale, bias;
  typename B::Scalar epsilon;
  Matrix<B> y, stats;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* from = x.row(r);
    const T* by = scale.data;
    const T* add = bias.data;
    const T share = T(1) / static_cast<T>(x.cols);
    const T mean = share * strip_sum<T>(x.cols, [=](Index j) { return from[j]; });
    // Around the mean, not E[x^2] - mean^2: a row far from zero keeps its digits.
    const T variance = share * strip_sum<T>(x.cols, [=](Index j) {
                         const T d = from[j] - mean;
                         return d * d;
                       });
    const T inverse = T(1) / math::sqrt(variance + epsilon);
    row_map(x.cols, y.row(r), [=](Index j) { return (from[j] - mean) * inverse * by[j] + add[j]; });
    if (stats) {
      stats(r, 0) = mean;
      stats(r, 1) = inverse;
    }
  }
};

template <Backend B>
struct LayerNormRowBackward {
  ConstMatrix<B> x, stats;
  ConstVector<B> scale;
  ConstMatrix<B> dy, add;
  Matrix<B> dx;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* from = x.row(r);
    const T* d = dy.row(r);
    const T* by = scale.data;
    const T mean = stats(r, 0);
    const T inverse = stats(r, 1);
    const T share = T(1) / static_cast<T>(x.cols);
    const T plain = share * strip_sum<T>(x.cols, [=](Index j) { return d[j] * by[j]; });
    const T along = share * inverse *
                    strip_sum<T>(x.cols, [=](Index j) { return d[j] * by[j] * (from[j] - mean); });
    const auto value = [=](Index j) {
      return inverse * (d[j] * by[j] - plain - (from[j] - mean) * inverse * along);
    };
    if (add) {
      const T* other = add.row(r);
      row_map(x.cols, dx.row(r), [=](Index j) { return other[j] + value(j); });
    } else {
      row_map(x.cols, dx.row(r), value);
    }
  }
};

template <Backend B>
struct LayerNormScaleTerm {
  ConstMatrix<B> x, stats, dy;

  MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index r, Index c) const {
    return dy(r, c) * ((x(r, c) - stats(r, 0)) * stats(r, 1));
  }
};

template <Backend B>
struct ElementTerm {
  ConstMatrix<B> of;

  MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index r, Index c) const { return of(r, c); }
};
}  // namespace detail

/// y = (x - mean) / sqrt(variance + epsilon) * scale + bias, by rows.
/// x, y: [R, C], may be the same memory. scale, bias: [C]. stats: [R, 2], mean and 1 /
/// sqrt(variance + epsilon) for the backward, or empty. Cost: three reads of a row that stays in
/// the first cache.   Source: Ba et al. 2016.
struct LayerNormRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> x, ConstVector<B> scale, ConstVector<B> bias, double epsilon,
                  Matrix<B> y, Matrix<B> stats) const {
    detail::run_or_generic(*this, b, x, scale, bias, epsilon, y, stats);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> x, ConstVector<B> scale, ConstVector<B> bias,
                      double epsilon, Matrix<B> y, Matrix<B> stats) {
    b.for_each(
        x.rows,
        detail::LayerNormRow<B>{x, scale, bias, static_cast<typename B::Scalar>(epsilon), y, stats},
        detail::row_grain(x.cols));
  }
};
inline constexpr LayerNormRows layer_norm_rows{};

/// dx = add + (gradient of the input of layer_norm_rows). x, dy, dx: [R, C]; stats: [R, 2] as the
/// forward left it; add: [R, C], or empty for nothing: the gradient that passes a residual block
/// beside the norm. dx may be dy or add.
struct LayerNormRowsBackward {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> x, ConstMatrix<B> stats, ConstVector<B> scale,
                  ConstMatrix<B> dy, ConstMatrix<B> add, Matrix<B> dx) const {
    detail::run_or_generic(*this, b, x, stats, scale, dy, add, dx);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> x, ConstMatrix<B> stats, ConstVector<B> scale,
                      ConstMatrix<B> dy, ConstMatrix<B> add, Matrix<B> dx) {
    b.for_each(x.rows, detail::LayerNormRowBackward<B>{x, stats, scale, dy, add, dx},
               detail::row_grain(x.cols));
  }
};
inline constexpr LayerNormRowsBackward layer_norm_rows_backward{};

/// d_scale += column sums of dy * (x - mean) / deviation, d_bias += column sums of dy. Scratch: the
/// backend's column_sums_bytes(R, C).
struct LayerNormWeightsBackward {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> x, ConstMatrix<B> stats, ConstMatrix<B> dy,
                  Vector<B> d_scale, Vector<B> d_bias, Scratch<B> scratch) const {
    detail::run_or_generic(*this, b, x, stats, dy, d_scale, d_bias, scratch);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> x, ConstMatrix<B> stats, ConstMatrix<B> dy,
                      Vector<B> d_scale, Vector<B> d_bias, Scratch<B> scratch) {
    b.column_sums(dy.rows, dy.cols, detail::LayerNormScaleTerm<B>{x, stats, dy}, d_scale, scratch);
    b.column_sums(dy.rows, dy.cols, detail::ElementTerm<B>{dy}, d_bias, scratch);
  }
};
inline constexpr LayerNormWeightsBackward layer_norm_weights_backward{};

}  // namespace moxie
