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
  // The derivative is slope (x - mean) - shift.
  T slope = 0;
  T shift = 0;

  MOXIE_HD SquaredVariation(const T* v, Index n, Variation form = {})
      : epsilon(static_cast<T>(form.epsilon)) {
    const T divisor = static_cast<T>(form.unbiased && n > 1 ? n - 1 : n);
    for (Index i = 0; i < n; ++i) mean += v[i];
    mean /= static_cast<T>(n);
    for (Index i = 0; i < n; ++i) variance += (v[i] - mean) * (v[i] - mean);
    variance /= divisor;
    if (mean == 0) return;
    const T square = mean * mean + epsilon;
    slope = T(2) / (divisor * square);
    shift = T(2) / static_cast<T>(n) * (variance / square) * (mean / square);
  }
  MOXIE_HD T value() const { return mean != 0 ? variance / (mean * mean + epsilon) : T(0); }
  /// d CV^2 / d v, for the element that is x.
  MOXIE_HD MOXIE_INLINE T derivative(T x) const { return slope * (x - mean) - shift; }
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

/// d_probs of the mean over groups of CV^2 of the probabilities' sums, for a block of tokens.
template <Backend B>
struct VariationBackward {
  ConstVector<B> sums;
  ConstIntVector<B> mask;
  Index group;
  double weight;
  Variation form;
  Matrix<B> d_probs;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index experts = d_probs.cols;
    const T scale = static_cast<T>(weight) / static_cast<T>(sums.size / experts);
    for (TokenRun run(block_tokens<B>, i, d_probs.rows, group); run.any(); run.next()) {
      const T* own = sums.data + run.group() * experts;
      const SquaredVariation<T> cv(own, experts, form);
      for (Index t = run.first; t < run.last; ++t) {
        if (mask && mask[t] == 0) continue;
        T* d = d_probs.row(t);
        row_map<half_strip>(experts, d,
                            [=](Index e) { return d[e] + scale * cv.derivative(own[e]); });
      }
    }
  }
};

}  // namespace detail
}  // namespace moxie
