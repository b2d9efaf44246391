#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/pair_distance.hpp"

namespace moxie {

namespace detail {
struct EuclideanDistance {
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
struct PairwiseL2 {
  double weight = 0.01;

  static constexpr std::string_view name = "pairwise_l2";
  static constexpr bool per_group = false;

  Index sums(const RoutingShape&) const noexcept { return form().sums(); }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    form().accumulate(b, ctx, r, sums);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>& ctx, const Routing&, ConstVector<B> sums, Vector<B> out) const {
    form().loss(b, ctx, sums, out);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    form().loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const PairwiseL2&, const PairwiseL2&) = default;

 private:
  detail::PairDistance<detail::EuclideanDistance> form() const {
    return {.distance = {}, .weight = weight};
  }
};

}  // namespace moxie
