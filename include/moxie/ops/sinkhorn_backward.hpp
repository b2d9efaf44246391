#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// Memory of `sinkhorn_backward` for T tokens.
template <Backend B>
struct SinkhornBackwardMemory {
  Matrix<B> link;   // [G*E, E] what two experts share of a group's tokens
  Matrix<B> right;  // [G, E] right side
  Matrix<B> shift;  // [G, E] solution y

  void bind(Arena<B>& arena, Index tokens, Index experts, Index group) {
    using T = typename B::Scalar;
    const Index groups = group > 0 ? tokens / group : 0;
    link = arena.template scratch<T>(groups * experts, experts);
    right = arena.template scratch<T>(groups, experts);
    shift = arena.template scratch<T>(groups, experts);
  }
};

namespace detail {
// Experts whose links are below share nothing that a result could show.
template <class T>
inline constexpr T sinkhorn_lost = static_cast<T>(1e-30);

// With rows of the plan P that sum to 1, x = (P R)1 - P y leaves for y the system
//   (diag(P^T 1) - P^T P) y = sum over tokens of P_se (R_se - <P_s, R_s>),
// whose matrix is the Laplacian of a graph of experts with links P_i^T P_j >= 0. Links and right
// side are sums over pairs of experts, and vertices are eliminated without a subtraction, so that
// the result is accurate even where tokens are all but assigned and the system is all but singular.

template <Backend B>
struct SinkhornLinks {
  ConstMatrix<B> plan, d_plan;
  Index group;
  SinkhornBackwardMemory<B> m;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index experts = plan.cols;
    const Index g = i / experts;
    const Index e = i % experts;
    T* link = m.link.row(i);
    T right = 0;
    for (Index j = 0; j < experts; ++j) link[j] = 0;
    for (Index t = g * group; t < (g + 1) * group; ++t) {
      const T own = plan(t, e);
      if (own == 0) continue;
      const T* p = plan.row(t);
      const T* d = d_plan.row(t);
      const T d_own = d[e];
      row_map(experts, link, [=](Index j) { return link[j] + own * p[j]; });
      right += own * strip_sum<T>(experts, [=](Index j) { return p[j] * (d_own - d[j]); });
    }
    m.right(g, e) = right;
  }
};
template <Backend B>
struct SinkhornEliminate {
  SinkhornBackwardMemory<B> m;

  MOXIE_HD MOXIE_INLINE void operator()(Index g) const {
    using T = typename B::Scalar;
    const Index experts = m.shift.cols;
    const Matrix<B> link = m.link.middle(g * experts, experts);
    T* right = m.right.row(g);
    T* shift = m.shift.row(g);
    for (Index k = experts - 1; k > 0; --k) {
      const T* from = link.row(k);
      const T all = strip_sum<T>(k, [=](Index j) { return from[j]; });
      link(k, k) = all;  // the diagonal is not used otherwise
      if (!(all > sinkhorn_lost<T>)) continue;
      for (Index i = 0; i < k; ++i) {
        const T share = link(i, k) / all;
        T* to = link.row(i);
        right[i] += share * right[k];
        row_map(k, to, [=](Index j) { return to[j] + share * from[j]; });
      }
    }
    shift[0] = 0;  // the solution is free up to one number for each part of the graph
    for (Index k = 1; k < experts; ++k) {
      const T* from = link.row(k);
      const T all = from[k];
      const T sum = strip_sum<T>(k, [=](Index j) { return from[j] * shift[j]; });
      shift[k] = all > sinkhorn_lost<T> ? (right[k] + sum) / all : T(0);
    }
  }
};
template <Backend B>
struct SinkhornLogits {
  ConstMatrix<B> plan, d_plan;
  Index group;
  typename B::Scalar epsilon;
  SinkhornBackwardMemory<B> m;
  Matrix<B> d_logits;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const T* p = plan.row(t);
    const T* d = d_plan.row(t);
    const T* y = m.shift.row(t / group);
    T* to = d_logits.row(t);
    const T scale = T(1) / epsilon;
    const T x = strip_sum<T>(plan.cols, [=](Index e) { return p[e] * (d[e] - y[e]); });
    row_map(plan.cols, to, [=](Index e) { return to[e] + scale * (p[e] * (d[e] - y[e] - x)); });
  }
};
}  // namespace detail

/// d_logits += the gradient that comes through plan = sinkhorn(logits), of the fixed point that its iteration
/// approaches: exact at convergence, whatever the number of iterations made.
///
/// plan, d_plan, d_logits: [T, E]; rows of a plan that are 0 (masked tokens) get nothing. With R = d_plan and
/// H = plan * R it solves [diag(P 1), P; P^T, diag(P^T 1)] [x; y] = [H 1; H^T 1] for each group, then adds
/// P * (R - x 1^T - 1 y^T) / epsilon. Cost: O(T E^2 + G E^3). Does not block.
struct SinkhornBackward {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> plan, ConstMatrix<B> d_plan, Index group, double epsilon,
                  const SinkhornBackwardMemory<B>& memory, Matrix<B> d_logits) const {
    detail::run_or_generic(*this, b, plan, d_plan, group, epsilon, memory, d_logits);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> plan, ConstMatrix<B> d_plan, Index group, double epsilon,
                      const SinkhornBackwardMemory<B>& m, Matrix<B> d_logits) {
    if (plan.rows == 0) return;
    const Index groups = plan.rows / group;
    b.for_each(groups * plan.cols, detail::SinkhornLinks<B>{plan, d_plan, group, m}, 1);
    b.for_each(groups, detail::SinkhornEliminate<B>{m}, 1);
    b.for_each(plan.rows,
               detail::SinkhornLogits<B>{plan, d_plan, group,
                                         static_cast<typename B::Scalar>(epsilon), m, d_logits});
  }
};
inline constexpr SinkhornBackward sinkhorn_backward{};

}  // namespace moxie
