#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/pair_distance.hpp"

namespace moxie {

namespace detail {
struct EuclideanDistance {
  static constexpr std::string_view name = "pairwise_l2";

  template <class T>
  MOXIE_HD T value(const T* p, const T* q, Index n) const {
    T sum = 0;
    for (Index e = 0; e < n; ++e) sum += (p[e] - q[e]) * (p[e] - q[e]);
    return math::sqrt(sum + T(1e-9));  // where p = q the root alone has no derivative
  }
  /// d += scale * d value / d p
  template <class T>
  MOXIE_HD void add_slope(const T* p, const T* q, Index n, T scale, T* d) const {
    const T by = scale / value(p, q, n);
    for (Index e = 0; e < n; ++e) d[e] += by * (p[e] - q[e]);
  }
};
}  // namespace detail

/// Distance of routes in two views: weight * mean over the pairs of `Pass::pairs` of
/// sqrt(|p_a - p_b|^2 + 1e-9), p the clean probabilities of a token. 0 to sqrt(2); 0 without pairs.
/// Nothing in it asks for balance. Source: the released code of Pairwise Router Consistency, `l2`.
using PairwiseL2 = PairwiseDistance<detail::EuclideanDistance>;

}  // namespace moxie
