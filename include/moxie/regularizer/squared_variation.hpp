#pragma once

#include "moxie/routing/tensors.hpp"

namespace moxie::detail {

/// CV^2(v) = Var(v) / mean(v)^2 of n numbers, population variance: what importance and load measure. Never as
/// (std / mean)^2: the root's derivative is infinite at perfect balance. 0 if the mean is 0 (nothing was counted).
template <class T>
struct SquaredVariation {
  T mean = 0;
  T variance = 0;
  Index n = 0;

  MOXIE_HD SquaredVariation(const T* v, Index count) : n(count) {
    for (Index i = 0; i < n; ++i) mean += v[i];
    mean /= static_cast<T>(n);
    for (Index i = 0; i < n; ++i) variance += (v[i] - mean) * (v[i] - mean);
    variance /= static_cast<T>(n);
  }
  MOXIE_HD T value() const { return mean != 0 ? variance / (mean * mean) : T(0); }
  /// d CV^2 / d v, for the element that is x.
  MOXIE_HD T derivative(T x) const {
    if (mean == 0) return 0;
    const T count = static_cast<T>(n);
    return 2 * (x - mean) / (count * mean * mean) -
           2 * variance / (count * mean * mean * mean);
  }
};

/// out[0] = weight * mean over groups of CV^2 of the E sums of a group.
template <Backend B>
struct MeanSquaredVariation {
  ConstVector<B> sums;  // [G, E]
  Index experts;
  double weight;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    const Index groups = sums.size / experts;
    T total = 0;
    for (Index g = 0; g < groups; ++g)
      total += SquaredVariation<T>(sums.data + g * experts, experts).value();
    out[0] = groups > 0 ? static_cast<T>(weight) * total / static_cast<T>(groups) : T(0);
  }
};

}  // namespace moxie::detail
