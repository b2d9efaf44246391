#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/gate_rank.hpp"
#include "moxie/regularizer/pair_distance.hpp"

namespace moxie::detail {

/// KL(p | m) / 2 + KL(q | m) / 2 with m = (p + q) / 2 and 0 log 0 = 0, each sum over the k largest
/// entries of its first argument; k = 0: over all.
struct JensenShannon {
  static constexpr std::string_view name = "pairwise_jsd";
  Index k = 0;

  template <class T>
  MOXIE_HD T value(const T* p, const T* q, Index n) const {
    T sum = 0;
    for (Index e = 0; e < n; ++e) {
      if (takes(p, n, e)) sum += p[e] * log_ratio(p[e], q[e]);
      if (takes(q, n, e)) sum += q[e] * log_ratio(q[e], p[e]);
    }
    return sum / 2;
  }
  /// d += scale * d value / d p. Infinite at p = 0, where the derivative of a softmax is 0 itself:
  /// their product is 0.
  template <class T>
  MOXIE_HD void add_slope(const T* p, const T* q, Index n, T scale, T* d) const {
    for (Index e = 0; e < n; ++e) {
      T slope = 0;
      if (takes(p, n, e)) slope += log_ratio(p[e], q[e]) + q[e] / (p[e] + q[e]);
      if (takes(q, n, e)) slope -= q[e] / (p[e] + q[e]);
      d[e] += scale * slope / 2;
    }
  }

 private:
  /// log(p / m); p > 0
  template <class T>
  MOXIE_HD static T log_ratio(T p, T q) {
    return math::log(2 * (p / (p + q)));
  }
  template <class T>
  MOXIE_HD bool takes(const T* p, Index n, Index e) const {
    return p[e] > 0 && (k == 0 || in_top(p, n, e, k));
  }
};

}  // namespace moxie::detail
