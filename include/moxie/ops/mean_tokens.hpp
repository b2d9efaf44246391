#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct MeanTokensRow {
  ConstMatrix<B> x;
  Matrix<B> y;

  MOXIE_HD MOXIE_INLINE void operator()(Index image) const {
    using T = typename B::Scalar;
    const Index width = y.cols;
    const Index tokens = x.cols / width;
    const T share = T(1) / static_cast<T>(tokens);
    const T* from = x.row(image);
    T* to = y.row(image);
    Index c = 0;
    for (; c + strip <= width;
         c += strip) {  // tokens in ascending order, a strip of columns at a time
      T part[strip] = {};
      for (Index t = 0; t < tokens; ++t)
        for (Index s = 0; s < strip; ++s) part[s] += from[t * width + c + s];
      for (Index s = 0; s < strip; ++s) to[c + s] = share * part[s];
    }
    for (; c < width; ++c) {
      T sum = 0;
      for (Index t = 0; t < tokens; ++t) sum += from[t * width + c];
      to[c] = share * sum;
    }
  }
};

template <Backend B>
struct MeanTokensRowBackward {
  ConstMatrix<B> dy;
  Matrix<B> dx;

  MOXIE_HD MOXIE_INLINE void operator()(Index image) const {
    using T = typename B::Scalar;
    const Index width = dy.cols;
    const Index tokens = dx.cols / width;
    const T share = T(1) / static_cast<T>(tokens);
    const T* from = dy.row(image);
    for (Index t = 0; t < tokens; ++t)
      row_map(width, dx.row(image) + t * width, [=](Index j) { return share * from[j]; });
  }
};
}  // namespace detail

/// y[image, :] = mean over the image's tokens. x: [images, tokens * width], y: [images, width].
struct MeanTokens {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> x, Matrix<B> y) const {
    detail::run_or_generic(*this, b, x, y);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> x, Matrix<B> y) {
    b.for_each(y.rows, detail::MeanTokensRow<B>{x, y}, detail::row_grain(x.cols));
  }
};
inline constexpr MeanTokens mean_tokens{};

/// dx[image, token, :] = dy[image, :] / tokens. dy: [images, width], dx: [images, tokens * width].
struct MeanTokensBackward {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> dy, Matrix<B> dx) const {
    detail::run_or_generic(*this, b, dy, dx);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> dy, Matrix<B> dx) {
    b.for_each(dx.rows, detail::MeanTokensRowBackward<B>{dy, dx}, detail::row_grain(dx.cols));
  }
};
inline constexpr MeanTokensBackward mean_tokens_backward{};

}  // namespace moxie
