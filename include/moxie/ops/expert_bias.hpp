#pragma once

#include "moxie/core/rows.hpp"
#include "moxie/ops/accelerate.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct BiasStripBackward {
  static constexpr Index width = 64;  // columns of one index: keeps the rows' reads contiguous
  Rows<B> dy;
  Matrix<B> d_bias;
  Index strips;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index e = i / strips;
    const Index first = i % strips * width;
    const Index n = d_bias.cols - first < width ? d_bias.cols - first : width;
    T sum[width] = {};
    for (Index r = dy.offset[e]; r < dy.offset[e + 1]; ++r) {
      const T* from = dy.x.row(dy.source(r)) + first;
      const T f = dy.factor(r);
      for (Index j = 0; j < n; ++j) sum[j] += f * from[j];
    }
    for (Index j = 0; j < n; ++j) d_bias(e, first + j) += sum[j];
  }
};
}  // namespace detail

/// d_bias[e, :] += sum over the rows r of expert e of dy(r, :), rows ascending. d_bias: [E, N].
struct ExpertBiasBackward {
  template <Backend B>
  void operator()(B& b, const Rows<B>& dy, Matrix<B> d_bias) const {
    detail::run_or_generic(*this, b, dy, d_bias);
  }
  template <Backend B>
  static void generic(B& b, const Rows<B>& dy, Matrix<B> d_bias) {
    using Strip = detail::BiasStripBackward<B>;
    const Index strips = (d_bias.cols + Strip::width - 1) / Strip::width;
    b.for_each(d_bias.rows * strips, Strip{dy, d_bias, strips}, 1);
  }
};
inline constexpr ExpertBiasBackward expert_bias_backward{};

}  // namespace moxie
