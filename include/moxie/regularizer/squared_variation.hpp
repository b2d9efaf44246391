#pragma once

#include "moxie/regularizer/group_sums.hpp"

namespace moxie {

/// How CV^2 = Var / (mean^2 + epsilon) of E numbers is taken: the defaults are V-MoE's, {true,
/// 1e-10} is Tutel's.
struct Variation {
  bool unbiased = false;  ///< the variance divides by E - 1; one number has none
  double epsilon = 0;

  friend constexpr bool operator==(const Variation&, const Variation&) = default;
};

namespace detail {

/// CV^2 of n numbers: what importance and load measure. Never as (std / mean)^2: the root's
/// derivative is infinite at perfect balance. 0 if the mean is 0 (nothing was counted).
template <class T>
struct SquaredVariation {
  T mean = 0;
  T variance = 0;
  T epsilon = 0;
  T divisor = 1;  // of the variance
  Index n = 0;

  MOXIE_HD SquaredVariation(const T* v, Index count, Variation form = {})
      : epsilon(static_cast<T>(form.epsilon)), n(count) {
    const Index free = form.unbiased && n > 1 ? n - 1 : n;
    divisor = static_cast<T>(free);
    for (Index i = 0; i < n; ++i) mean += v[i];
    mean /= static_cast<T>(n);
    for (Index i = 0; i < n; ++i) variance += (v[i] - mean) * (v[i] - mean);
    variance /= divisor;
  }
  MOXIE_HD T value() const { return mean != 0 ? variance / (mean * mean + epsilon) : T(0); }
  /// d CV^2 / d v, for the element that is x.
  MOXIE_HD T derivative(T x) const {
    if (mean == 0) return 0;
    const T count = static_cast<T>(n);
    if (epsilon == 0)
      return 2 * (x - mean) / (divisor * mean * mean) - 2 * variance / (count * mean * mean * mean);
    const T square = mean * mean + epsilon;
    return 2 * (x - mean) / (divisor * square) - 2 * variance * mean / (count * square * square);
  }
};

/// CV^2 of the E sums of a group.
template <class T>
struct VariationLoss {
  Index experts;
  Variation form{};

  MOXIE_HD T operator()(const T* sums) const {
    return SquaredVariation<T>(sums, experts, form).value();
  }
};

/// d_probs of the mean over groups of CV^2 of the probabilities' sums.
template <Backend B>
struct VariationBackward {
  static constexpr bool one_level = true;
  ConstVector<B> sums;
  ConstIntVector<B> mask;
  Index group;
  double weight;
  Variation form;
  Matrix<B> d_probs;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    if (mask && mask[t] == 0) return;
    const Index experts = d_probs.cols;
    const T* own = sums.data + t / group * experts;
    const SquaredVariation<T> cv(own, experts, form);
    const T scale = static_cast<T>(weight) / static_cast<T>(sums.size / experts);
    for (Index e = 0; e < experts; ++e) d_probs(t, e) += scale * cv.derivative(own[e]);
  }
};

}  // namespace detail
}  // namespace moxie
