#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct SoftmaxRow {
  ConstMatrix<B> in;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* from = in.row(r);
    T* to = out.row(r);
    const T peak = strip_maximum<T, half_strip>(in.cols, [=](Index j) { return from[j]; });
    const T scale =
        T(1) / row_map_sum<false>(in.cols, to, [=](Index j) { return math::exp(from[j] - peak); });
    row_map<half_strip>(in.cols, to, [=](Index j) { return to[j] * scale; });
  }
};

template <Backend B>
struct SoftmaxRowBackward {
  ConstMatrix<B> p, dp;
  Matrix<B> dx;
  bool accumulate;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const T* value = p.row(r);
    const T* d = dp.row(r);
    T* to = dx.row(r);
    const T inner = strip_sum<T, half_strip>(p.cols, [=](Index j) { return value[j] * d[j]; });
    if (accumulate) {
      row_map<half_strip>(p.cols, to, [=](Index j) { return to[j] + value[j] * (d[j] - inner); });
    } else {
      row_map<half_strip>(p.cols, to, [=](Index j) { return value[j] * (d[j] - inner); });
    }
  }
};
}  // namespace detail

/// out[r, :] = softmax(in[r, :]), the maximum subtracted first. in and out: [R, C], may be the same memory.
/// A NaN in a row makes that whole row NaN.
struct SoftmaxRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> in, Matrix<B> out) const {
    detail::run_or_generic(*this, b, in, out);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> in, Matrix<B> out) {
    b.for_each(in.rows, detail::SoftmaxRow<B>{in, out});
  }
};
inline constexpr SoftmaxRows softmax_rows{};

/// dx = p * (dp - <p, dp>) by rows, or dx += with `accumulate`. p: the output of softmax_rows. dx may be dp.
struct SoftmaxRowsBackward {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> p, ConstMatrix<B> dp, Matrix<B> dx, bool accumulate) const {
    detail::run_or_generic(*this, b, p, dp, dx, accumulate);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> p, ConstMatrix<B> dp, Matrix<B> dx, bool accumulate) {
    b.for_each(p.rows, detail::SoftmaxRowBackward<B>{p, dp, dx, accumulate});
  }
};
inline constexpr SoftmaxRowsBackward softmax_rows_backward{};

}  // namespace moxie
