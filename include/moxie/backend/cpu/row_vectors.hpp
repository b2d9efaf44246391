#pragma once

#include <cstdint>
#include <utility>

#include "moxie/backend/cpu/simd.hpp"
#include "moxie/core/strip.hpp"

/// Passes over a row of a matrix in cache, in vectors: what core/strip.hpp does, in its order, so
/// with its bits, for code that already knows its level.
namespace moxie::detail {

/// v[0] = all lanes folded by halves with combine(V&, const V&).
template <int Half, class V, class F, int... I>
MOXIE_INLINE void fold_lanes(V& v, const F& combine, std::integer_sequence<int, I...> lane) {
  V other;
  shuffle(v, v, other, std::integer_sequence<int, (I ^ Half)...>{});
  combine(v, other);
  if constexpr (Half > 1) fold_lanes<Half / 2>(v, combine, lane);
}

/// The partial results of a row: as many vectors as make a strip.
template <class T, class L>
struct StripVectors {
  using V = Vec<T, L>;
  static constexpr Index width = lanes<T, L>;
  static constexpr int count = static_cast<int>(strip / width);
  Array<V, count> part;

  template <class F>
  MOXIE_INLINE T fold(const F& combine) {
    MOXIE_CPU_UNROLL
    for (int half = count / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) combine(part[i], part[i + half]);
    }
    fold_lanes<static_cast<int>(width) / 2>(
        part[0], combine, std::make_integer_sequence<int, static_cast<int>(width)>{});
    return part[0][0];
  }
};

/// The largest element of a row; the lowest finite number if it has none.
template <class T, class L>
MOXIE_INLINE T row_maximum(const T* row, Index n) {
  using V = Vec<T, L>;
  using S = StripVectors<T, L>;
  S s;
  MOXIE_CPU_UNROLL
  for (int i = 0; i < S::count; ++i) s.part[i] = math::lowest<T>() - V{};
  const auto combine = [](V& a, const V& b) { a = a < b ? b : a; };
  Index j = 0;
  for (; j + strip <= n; j += strip) {
    MOXIE_CPU_UNROLL
    for (int i = 0; i < S::count; ++i) {
      V v;
      load(v, row + j + i * S::width);
      combine(s.part[i], v);
    }
  }
  if (j < n) {
    Array<T, strip> rest;
    for (Index k = 0; k < strip; ++k) rest[k] = j + k < n ? row[j + k] : math::lowest<T>();
    MOXIE_CPU_UNROLL
    for (int i = 0; i < S::count; ++i) {
      V v;
      load(v, rest + i * S::width);
      combine(s.part[i], v);
    }
  }
  return s.fold(combine);
}

/// v = exp(v) by lanes: math::exp, written in vectors because compilers do not always make them of
/// its loop.
template <class T, class L>
MOXIE_INLINE void exp_lanes(Vec<T, L>& v) {
  using V = Vec<T, L>;
  if constexpr (sizeof(T) == sizeof(float)) {
    using I = Vec<std::int32_t, L>;
    const V low = -87.0F - V{};
    const V high = 88.0F - V{};
    V y = v < low ? low : v;
    y = y > high ? high : y;
    const V half = 0.5F - V{};
    const V turned = y * 1.44269504F + (y < V{} ? -half : half);
    const I n = __builtin_convertvector(turned, I);
    const V f = __builtin_convertvector(n, V);
    const V r = (y - f * 0.693359375F) + f * 2.12194440e-4F;
    V p = r * 1.9875691500e-4F + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    const I power = (n + 127) << 23;
    V two_to_n;
    __builtin_memcpy(&two_to_n, &power, sizeof power);
    v = (p * r * r + r + 1.0F) * two_to_n;
  } else {
    for (Index i = 0; i < lanes<T, L>; ++i) v[i] = math::exp(v[i]);
  }
}

/// row[j] = exp(row[j] - peak) * factor. Returns the sum of row[j], or of row[j] * other[j] if
/// there is another row.
template <class T, class L>
MOXIE_INLINE T row_exp(T* row, Index n, T peak, T factor, const T* other) {
  using V = Vec<T, L>;
  using S = StripVectors<T, L>;
  const V shift = peak - V{};
  const V scale = factor - V{};
  S s;
  MOXIE_CPU_UNROLL
  for (int i = 0; i < S::count; ++i) s.part[i] = V{};
  const auto step = [&](T* at, const T* weights, V& sum) {
    V v;
    load(v, at);
    v -= shift;
    exp_lanes<T, L>(v);
    v *= scale;
    store(at, v);
    if (weights != nullptr) {
      V w;
      load(w, weights);
      v *= w;
    }
    sum += v;
  };
  Index j = 0;
  for (; j + strip <= n; j += strip) {
    MOXIE_CPU_UNROLL
    for (int i = 0; i < S::count; ++i) {
      const Index at = j + i * S::width;
      step(row + at, other != nullptr ? other + at : nullptr, s.part[i]);
    }
  }
  if (j < n) {  // a whole strip again, whose surplus weighs nothing and is stored nowhere
    Array<T, strip> rest;
    Array<T, strip> weights;
    for (Index k = 0; k < strip; ++k) rest[k] = j + k < n ? row[j + k] : peak;
    for (Index k = 0; k < strip; ++k) {
      weights[k] = j + k >= n ? T(0) : other != nullptr ? other[j + k] : T(1);
    }
    MOXIE_CPU_UNROLL
    for (int i = 0; i < S::count; ++i) {
      step(rest + i * S::width, weights + i * S::width, s.part[i]);
    }
    for (Index k = 0; j + k < n; ++k) row[j + k] = rest[k];
  }
  return s.fold([](V& a, const V& b) { a += b; });
}

/// d[j] = p[j] * (d[j] - inner): a row of a softmax, backward.
template <class T, class L>
MOXIE_INLINE void row_softmax_backward(T* d, const T* p, Index n, T inner) {
  using V = Vec<T, L>;
  constexpr Index width = lanes<T, L>;
  const V shift = inner - V{};
  Index j = 0;
  for (; j + width <= n; j += width) {
    V v;
    V w;
    load(v, d + j);
    load(w, p + j);
    v = w * (v - shift);
    store(d + j, v);
  }
  for (; j < n; ++j) d[j] = p[j] * (d[j] - inner);
}

}  // namespace moxie::detail
