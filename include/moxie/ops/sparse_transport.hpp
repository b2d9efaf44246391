#pragma once

#include <cmath>

#include "moxie/backend/concept.hpp"
#include "moxie/core/math.hpp"
#include "moxie/core/strip.hpp"

/// Transport plans with few non-zeros: between the tokens of a group (1 each) and the experts (n / E each, n = tokens
/// that are not masked), with a quadratic regularizer and at most k non-zeros in each expert's column
/// (sparse_transport_experts.hpp) or each token's row (sparse_transport_tokens.hpp). Those marginals hold exactly; the
/// others are approached by Adam on the potentials alpha of the semi-dual, from 0:
///   v = (alpha + similarity) / gamma;  the k largest, ties to the lower index, less a threshold tau, sum to the
///   marginal;  gradient = sum over such columns (rows) - the other marginal.
/// The default 20 steps of 1e-2 move a potential by some 0.2 at most: the plan is then little more than the similarity
/// with a small bias, and loads can stay far from balanced (ops/marginal_error.hpp says how far).
/// Source: Liu et al., "Sparsity-Constrained Optimal Transport", arXiv 2209.15466.
namespace moxie {

/// The problem, and the descent that works on it.
struct SparseTransportOptions {
  Index group = 0;     ///< S: tokens of a group, which lie together; each is a problem of its own
  Index nonzeros = 1;  ///< k: of an expert's column, or of a token's row
  double gamma = 1;    ///< weight of the quadratic regularizer
  double learning_rate = 1e-2;  ///< of Adam
  Index max_iterations = 20;
  double tolerance = 1e-3;  ///< a group stops after a step whose gradient was not longer
};

namespace detail {
/// One step of Adam, the corrections of its bias made.
template <class T>
struct AdamStep {
  T rate, first_scale, second_scale;

  AdamStep(double learning_rate, Index step)  // from 1
      : rate(static_cast<T>(learning_rate)),
        first_scale(static_cast<T>(1 / (1 - std::pow(0.9, static_cast<double>(step))))),
        second_scale(static_cast<T>(1 / (1 - std::pow(0.999, static_cast<double>(step))))) {}
  MOXIE_HD MOXIE_INLINE void operator()(T gradient, T& first, T& second, T& value) const {
    first = T(0.9) * first + T(0.1) * gradient;
    second = T(0.999) * second + T(0.001) * gradient * gradient;
    value -= rate * (first * first_scale) / (math::sqrt(second * second_scale) + T(1e-8));
  }
};

/// tau for which the sum of max(value(i) - tau, 0) over i < n is `total`; values descending.
template <class T, class F>
MOXIE_HD MOXIE_INLINE T simplex_threshold(Index n, T total, const F& value) {
  T sum = 0;
  T tau = 0;
  for (Index i = 0; i < n; ++i) {
    const T v = value(i);
    sum += v;
    const T next = (sum - total) / static_cast<T>(i + 1);
    if (i > 0 && !(v > next)) break;  // the values from here on end up 0
    tau = next;
  }
  return tau;
}

/// Norm of each group's gradient against the tolerance.
template <Backend B>
struct SparseSettle {
  ConstMatrix<B> gradient;  // [G, unknowns]
  double tolerance;
  IntVector<B> done;

  MOXIE_HD MOXIE_INLINE void operator()(Index g) const {
    using T = typename B::Scalar;
    if (done[g] != 0) return;
    const T* d = gradient.row(g);
    const T squares = strip_sum<T>(gradient.cols, [=](Index i) { return d[i] * d[i]; });
    if (math::sqrt(squares) <= static_cast<T>(tolerance)) done[g] = 1;
  }
};
template <Backend B>
struct CountTokens {
  static constexpr bool one_level = true;
  ConstIntVector<B> mask;
  Index group;
  IntVector<B> count, done;

  MOXIE_HD void operator()(Index g) const {
    Index n = group;
    if (mask) {
      n = 0;
      for (Index t = g * group; t < (g + 1) * group; ++t) n += mask[t] != 0 ? 1 : 0;
    }
    count[g] = static_cast<std::int32_t>(n);
    done[g] = n == 0 ? 1 : 0;
  }
};
}  // namespace detail

}  // namespace moxie
