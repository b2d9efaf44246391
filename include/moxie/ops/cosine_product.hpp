#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct InverseRowNorm {
  ConstMatrix<B> x;
  double epsilon;
  Vector<B> inverse;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const T* row = x.row(t);
    const T squares = strip_sum<T>(x.cols, [=](Index j) { return row[j] * row[j]; });
    inverse[t] = T(1) / math::sqrt(squares + static_cast<T>(epsilon));
  }
};
template <Backend B>
struct SquareTerm {
  ConstMatrix<B> w;

  MOXIE_HD typename B::Scalar operator()(Index r, Index c) const { return w(r, c) * w(r, c); }
};
template <Backend B>
struct InverseRoot {
  double epsilon;
  Vector<B> v;

  MOXIE_HD void operator()(Index c) const {
    using T = typename B::Scalar;
    v[c] = T(1) / math::sqrt(v[c] + static_cast<T>(epsilon));
  }
};
template <Backend B>
struct ScaleCosines {
  ConstVector<B> x_inverse, w_inverse, scale;
  Matrix<B> cosine, logits;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const T own = x_inverse[t];
    const T factor = scale[0];
    const T* w = w_inverse.data;
    T* c = cosine.row(t);
    row_map(cosine.cols, c, [=](Index j) { return c[j] * own * w[j]; });
    row_map(cosine.cols, logits.row(t), [=](Index j) { return factor * c[j]; });
  }
};
template <Backend B>
struct CosineProductBackward {  // of the plain product x w
  ConstMatrix<B> d_logits;
  ConstVector<B> x_inverse, w_inverse, scale;
  Matrix<B> d_product;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const T factor = scale[0] * x_inverse[t];
    const T* w = w_inverse.data;
    const T* d = d_logits.row(t);
    row_map(d_product.cols, d_product.row(t), [=](Index j) { return factor * d[j] * w[j]; });
  }
};
template <Backend B>
struct InverseRowNormBackward {  // the part of dx that goes through the norm of x
  ConstMatrix<B> x, cosine, d_logits;
  ConstVector<B> x_inverse, scale;
  Matrix<B> dx;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const T* c = cosine.row(t);
    const T* d = d_logits.row(t);
    const T inner = strip_sum<T>(cosine.cols, [=](Index j) { return c[j] * d[j]; });
    const T factor = scale[0] * inner * x_inverse[t] * x_inverse[t];
    const T* from = x.row(t);
    T* to = dx.row(t);
    row_map(x.cols, to, [=](Index j) { return to[j] - factor * from[j]; });
  }
};
template <Backend B>
struct CosineTerm {
  ConstMatrix<B> cosine, d_logits;

  MOXIE_HD typename B::Scalar operator()(Index t, Index c) const {
    return cosine(t, c) * d_logits(t, c);
  }
};
template <Backend B>
struct InverseColumnNormBackward {
  ConstMatrix<B> w;
  ConstVector<B> inner, w_inverse, scale;
  Matrix<B> dw;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T factor = scale[0];
    const T* sums = inner.data;
    const T* inverse = w_inverse.data;
    const T* from = w.row(r);
    T* to = dw.row(r);
    row_map(w.cols, to,
            [=](Index j) { return to[j] - factor * sums[j] * inverse[j] * inverse[j] * from[j]; });
  }
};
template <Backend B>
struct AddTotal {
  static constexpr bool one_level = true;
  ConstVector<B> v;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    const T* from = v.data;
    out[0] += strip_sum<T>(v.size, [=](Index j) { return from[j]; });
  }
};
}  // namespace detail

/// logits[t, c] = scale * <x_t, w_c> / (|x_t| |w_c|), a norm being sqrt(sum of squares + epsilon): cosines of the rows of x
/// [T, D] and the columns of w [D, C], times a number `scale` [1] in the backend's memory. Memory of one pass; x, w and
/// scale must stay as they were until the backward.
template <Backend B>
class CosineProduct {
 public:
  void bind(const B& b, Arena<B>& arena, Index tokens, Index width, Index columns) {
    using T = typename B::Scalar;
    cosine_ = arena.template saved<T>(tokens, columns);
    x_inverse_ = arena.template saved<T>(tokens);
    w_inverse_ = arena.template saved<T>(columns);
    if (arena.wants_input()) d_product_ = arena.template scratch<T>(tokens, columns);
    inner_ = arena.template scratch<T>(columns);
    const std::size_t of_w = b.column_sums_bytes(width, columns);
    const std::size_t of_d = b.column_sums_bytes(tokens, columns);
    scratch_ = arena.scratch_bytes(of_w > of_d ? of_w : of_d);
  }
  void forward(B& b, ConstMatrix<B> x, ConstMatrix<B> w, ConstVector<B> scale, double epsilon,
               Matrix<B> logits) {
    using T = typename B::Scalar;
    b.for_each(x.rows, detail::InverseRowNorm<B>{x, epsilon, x_inverse_});
    b.fill(w_inverse_, T(0));
    b.column_sums(w.rows, w.cols, detail::SquareTerm<B>{w}, w_inverse_, scratch_);
    b.for_each(w.cols, detail::InverseRoot<B>{epsilon, w_inverse_});
    b.gemm(Op::none, Op::none, 1, x, w, 0, cosine_.top(x.rows));
    b.for_each(x.rows, detail::ScaleCosines<B>{x_inverse_, w_inverse_, scale, cosine_, logits});
  }
  /// dx, dw [D, C] and d_scale [1] get their gradients added; each may be empty: not computed.
  void backward(B& b, ConstMatrix<B> x, ConstMatrix<B> w, ConstVector<B> scale,
                ConstMatrix<B> d_logits, Matrix<B> dx, Matrix<B> dw, Vector<B> d_scale) {
    using T = typename B::Scalar;
    const ConstMatrix<B> cosine = cosine_.top(x.rows);
    const Matrix<B> d_product = d_product_.top(x.rows);
    b.for_each(x.rows, detail::CosineProductBackward<B>{d_logits, x_inverse_, w_inverse_, scale,
                                                        d_product});
    if (dx) {
      b.gemm(Op::none, Op::transpose, 1, d_product, w, 1, dx);
      b.for_each(x.rows,
                 detail::InverseRowNormBackward<B>{x, cosine, d_logits, x_inverse_, scale, dx});
    }
    if (!dw && !d_scale) return;
    b.fill(inner_, T(0));
    b.column_sums(x.rows, w.cols, detail::CosineTerm<B>{cosine, d_logits}, inner_, scratch_);
    if (dw) {
      b.gemm(Op::transpose, Op::none, 1, x, d_product, 1, dw);
      b.for_each(w.rows, detail::InverseColumnNormBackward<B>{w, inner_, w_inverse_, scale, dw});
    }
    if (d_scale) b.for_each(1, detail::AddTotal<B>{inner_, d_scale});
  }

 private:
  Matrix<B> cosine_, d_product_;             // [T, C]
  Vector<B> x_inverse_, w_inverse_, inner_;  // [T], [C], [C]
  Scratch<B> scratch_;
};

}  // namespace moxie
