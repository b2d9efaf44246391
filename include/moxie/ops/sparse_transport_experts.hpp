#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/largest_ids.hpp"
#include "moxie/ops/sparse_transport.hpp"

namespace moxie {

/// Memory of `sparse_transport_experts` for T tokens.
template <Backend B>
struct SparseExpertsMemory {
  Matrix<B> potential, first, second, gradient;  // [G, S] of the tokens, and Adam's moments
  IntMatrix<B> ids;            // [G*E, min(k, S)] tokens of each column's largest entries
  Matrix<B> threshold, least;  // [G, E] tau, and the lowest score among those entries
  IntMatrix<B> last;           // [G, E] the token of that score
  IntVector<B> count, done;    // [G]

  void bind(Arena<B>& arena, Index tokens, Index experts, Index group, Index nonzeros) {
    using T = typename B::Scalar;
    using Id = std::int32_t;
    const Index groups = group > 0 ? tokens / group : 0;
    for (Matrix<B>* m : {&potential, &first, &second, &gradient})
      *m = arena.template scratch<T>(groups, group);
    ids = arena.template scratch<Id>(groups * experts, nonzeros < group ? nonzeros : group);
    threshold = arena.template scratch<T>(groups, experts);
    least = arena.template scratch<T>(groups, experts);
    last = arena.template scratch<Id>(groups, experts);
    count = arena.template scratch<Id>(groups);
    done = arena.template scratch<Id>(groups);
  }
};

namespace detail {
template <Backend B>
struct SparseColumnScore {
  ConstMatrix<B> similarity;
  ConstIntVector<B> mask;
  const typename B::Scalar* potential;  // [T]
  Index expert;

  MOXIE_HD MOXIE_INLINE bool admits(Index t) const { return !(mask && mask[t] == 0); }
  MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index t) const {
    return potential[t] + similarity(t, expert);
  }
};
/// Threshold of a column, and where its largest entries end: what any token needs to know its own.
template <Backend B>
struct SparseColumn {
  static constexpr bool one_level = true;
  ConstMatrix<B> similarity;
  ConstIntVector<B> mask;
  typename B::Scalar gamma;
  bool last_time;  // also of groups that are done, whose last step came after their columns
  SparseExpertsMemory<B> m;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index experts = similarity.cols;
    const Index group = m.potential.cols;
    const Index g = i / experts;
    const Index e = i % experts;
    if (m.count[g] == 0 || (m.done[g] != 0 && !last_time)) return;
    const SparseColumnScore<B> score{similarity, mask, m.potential.data, e};
    std::int32_t* ids = m.ids.row(i);
    const Index n = largest_ids(g * group, (g + 1) * group, m.ids.cols, score, ids);
    const T share = static_cast<T>(m.count[g]) / static_cast<T>(experts);
    m.threshold(g, e) =
        simplex_threshold<T>(n, share, [=, this](Index j) { return score(ids[j]) / gamma; });
    m.least(g, e) = score(ids[n - 1]);
    m.last(g, e) = ids[n - 1];
  }
};
/// Entry (t, e) of the plan.
template <Backend B>
struct SparseColumnEntry {
  ConstMatrix<B> similarity;
  typename B::Scalar gamma;
  SparseExpertsMemory<B> m;

  MOXIE_HD MOXIE_INLINE typename B::Scalar operator()(Index g, Index t, Index e) const {
    using T = typename B::Scalar;
    const T score = m.potential.data[t] + similarity(t, e);
    const T least = m.least(g, e);
    if (score < least || (score == least && t > m.last(g, e))) return T(0);
    return math::maximum(score / gamma - m.threshold(g, e), T(0));
  }
};
template <Backend B>
struct SparseTokenStep {
  static constexpr bool one_level = true;
  SparseColumnEntry<B> entry;
  ConstIntVector<B> mask;
  AdamStep<typename B::Scalar> adam;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const SparseExpertsMemory<B>& m = entry.m;
    const Index g = t / m.potential.cols;
    if (m.done[g] != 0) return;
    T gradient = 0;
    if (!(mask && mask[t] == 0)) {
      gradient = -1;
      for (Index e = 0; e < entry.similarity.cols; ++e) gradient += entry(g, t, e);
      // Where all columns are full the gradient is 0 but for rounding, which Adam would make whole steps of.
      constexpr T rounding = sizeof(T) == sizeof(float) ? T(16 * 1.2e-7) : T(16 * 2.3e-16);
      if (math::abs(gradient) < rounding * static_cast<T>(entry.similarity.cols)) gradient = 0;
      adam(gradient, m.first.data[t], m.second.data[t], m.potential.data[t]);
    }
    m.gradient.data[t] = gradient;
  }
};
template <Backend B>
struct SparseExpertsPlan {
  static constexpr bool one_level = true;
  SparseColumnEntry<B> entry;
  ConstIntVector<B> mask;
  Matrix<B> plan;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const bool padding = mask && mask[t] == 0;
    for (Index e = 0; e < plan.cols; ++e)
      plan(t, e) = padding ? T(0) : entry(t / entry.m.potential.cols, t, e);
  }
};
}  // namespace detail

/// plan = the transport plan with at most k non-zeros in each expert's column of a group, which sum to n / E exactly;
/// a token's row sums to about 1. k >= S: the plain quadratic regularizer. See sparse_transport.hpp.
///
/// similarity (>= 0), plan: [T, E], different memory; mask: [T] or empty, rows of masked tokens become 0. The same bits
/// on any number of threads. Cost: each step selects the k largest of every column, O(S + k log k), and reads T*E.
/// Does not block: groups that are done are skipped.
struct SparseTransportExperts {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> similarity, ConstIntVector<B> mask,
                  const SparseTransportOptions& options, const SparseExpertsMemory<B>& memory,
                  Matrix<B> plan) const {
    detail::run_or_generic(*this, b, similarity, mask, options, memory, plan);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> similarity, ConstIntVector<B> mask,
                      const SparseTransportOptions& options, const SparseExpertsMemory<B>& m,
                      Matrix<B> plan) {
    using T = typename B::Scalar;
    const Index tokens = plan.rows;
    if (tokens == 0) return;
    const Index groups = tokens / options.group;
    const Index columns = groups * plan.cols;
    const auto gamma = static_cast<T>(options.gamma);
    const auto zero = [&b](Matrix<B> v) { b.fill(Vector<B>(v.data, v.size()), T(0)); };
    zero(m.potential);
    zero(m.first);
    zero(m.second);
    b.for_each(groups, detail::CountTokens<B>{mask, options.group, m.count, m.done});
    const detail::SparseColumnEntry<B> entry{similarity, gamma, m};
    for (Index step = 1; step <= options.max_iterations; ++step) {
      b.for_each(columns, detail::SparseColumn<B>{similarity, mask, gamma, false, m}, 1);
      b.for_each(tokens, detail::SparseTokenStep<B>{
                             entry, mask, detail::AdamStep<T>(options.learning_rate, step)});
      b.for_each(groups, detail::SparseSettle<B>{m.gradient, options.tolerance, m.done});
    }
    b.for_each(columns, detail::SparseColumn<B>{similarity, mask, gamma, true, m}, 1);
    b.for_each(tokens, detail::SparseExpertsPlan<B>{entry, mask, plan});
  }
};
inline constexpr SparseTransportExperts sparse_transport_experts{};

}  // namespace moxie
