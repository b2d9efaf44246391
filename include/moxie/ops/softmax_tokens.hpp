#pragma once

#include <type_traits>

#include "moxie/core/math.hpp"
#include "moxie/ops/accelerate.hpp"

namespace moxie {

namespace detail {
/// Columns that one call of a functor takes: neighbours in memory vectorise on a host, and are neighbours in a warp on a
/// device. A column's bits do not depend on where it lies.
template <class B>
inline constexpr Index token_strip = std::is_same_v<typename B::Space, HostSpace> ? 16 : 1;

/// The strips of `cols` columns of one group.
template <class B>
MOXIE_HD constexpr Index token_strips(Index cols) {
  return (cols + token_strip<B> - 1) / token_strip<B>;
}

/// A count known when compiling, so that loops of it vectorise.
template <class B>
struct FullStrip {
  MOXIE_HD constexpr operator Index() const { return token_strip<B>; }
};

template <Backend B>
struct SoftmaxTokensStrip {
  ConstMatrix<B> in;
  ConstIntVector<B> mask;
  Index group;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    const Index strips = token_strips<B>(in.cols);
    const Index first = i % strips * token_strip<B>;
    if (first + token_strip<B> <= in.cols) {
      columns(i / strips, first, FullStrip<B>{});
    } else {
      columns(i / strips, first, in.cols - first);
    }
  }
  template <class Count>
  MOXIE_HD MOXIE_INLINE void columns(Index g, Index first, Count count) const {
    using T = typename B::Scalar;
    const Index n = count;
    T peak[token_strip<B>];
    T sum[token_strip<B>];
    for (Index s = 0; s < n; ++s) peak[s] = math::lowest<T>();
    for (Index s = 0; s < n; ++s) sum[s] = 0;
    const Index end = (g + 1) * group;
    for (Index t = g * group; t < end; ++t) {
      if (mask && mask[t] == 0) continue;
      const T* from = in.row(t) + first;
      for (Index s = 0; s < n; ++s) peak[s] = math::maximum(peak[s], from[s]);
    }
    for (Index t = g * group; t < end; ++t) {
      const T* from = in.row(t) + first;
      T* to = out.row(t) + first;
      T value[token_strip<B>];
      if (mask && mask[t] == 0) {
        for (Index s = 0; s < n; ++s) to[s] = 0;
        continue;
      }
      for (Index s = 0; s < n; ++s) value[s] = math::exp(from[s] - peak[s]);
      for (Index s = 0; s < n; ++s) sum[s] += value[s];
      for (Index s = 0; s < n; ++s) to[s] = value[s];
    }
    for (Index s = 0; s < n; ++s) sum[s] = sum[s] > 0 ? T(1) / sum[s] : T(0);
    for (Index t = g * group; t < end; ++t) {
      T* to = out.row(t) + first;
      for (Index s = 0; s < n; ++s) to[s] *= sum[s];
    }
  }
};

template <Backend B>
struct SoftmaxTokensBackwardStrip {
  ConstMatrix<B> p, dp;
  Index group;
  Matrix<B> dx;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    const Index strips = token_strips<B>(p.cols);
    const Index first = i % strips * token_strip<B>;
    if (first + token_strip<B> <= p.cols) {
      columns(i / strips, first, FullStrip<B>{});
    } else {
      columns(i / strips, first, p.cols - first);
    }
  }
  template <class Count>
  MOXIE_HD MOXIE_INLINE void columns(Index g, Index first, Count count) const {
    using T = typename B::Scalar;
    const Index n = count;
    T inner[token_strip<B>];
    for (Index s = 0; s < n; ++s) inner[s] = 0;
    const Index end = (g + 1) * group;
    for (Index t = g * group; t < end; ++t) {
      const T* value = p.row(t) + first;
      const T* d = dp.row(t) + first;
      for (Index s = 0; s < n; ++s) inner[s] += value[s] * d[s];
    }
    for (Index t = g * group; t < end; ++t) {
      const T* value = p.row(t) + first;
      const T* d = dp.row(t) + first;
      T* to = dx.row(t) + first;
      T add[token_strip<B>];
      for (Index s = 0; s < n; ++s) add[s] = value[s] * (d[s] - inner[s]);
      for (Index s = 0; s < n; ++s) to[s] += add[s];
    }
  }
};
}  // namespace detail

/// out[t, c] = softmax over the tokens t of each group of in[t, c], the maximum subtracted first. in, out: [T, C], T a
/// multiple of `group`; mask: [T] or empty: tokens with 0 take no part and get 0. A group without tokens is all 0.
struct SoftmaxTokens {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> in, ConstIntVector<B> mask, Index group,
                  Matrix<B> out) const {
    detail::run_or_generic(*this, b, in, mask, group, out);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> in, ConstIntVector<B> mask, Index group, Matrix<B> out) {
    if (in.rows == 0) return;
    b.for_each(in.rows / group * detail::token_strips<B>(in.cols),
               detail::SoftmaxTokensStrip<B>{in, mask, group, out}, 1);
  }
};
inline constexpr SoftmaxTokens softmax_tokens{};

/// dx += p * (dp - <p, dp>) by columns of each group. p: the output of softmax_tokens.
struct SoftmaxTokensBackward {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> p, ConstMatrix<B> dp, Index group, Matrix<B> dx) const {
    detail::run_or_generic(*this, b, p, dp, group, dx);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> p, ConstMatrix<B> dp, Index group, Matrix<B> dx) {
    if (p.rows == 0) return;
    b.for_each(p.rows / group * detail::token_strips<B>(p.cols),
               detail::SoftmaxTokensBackwardStrip<B>{p, dp, group, dx}, 1);
  }
};
inline constexpr SoftmaxTokensBackward softmax_tokens_backward{};

}  // namespace moxie
