#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/largest_ids.hpp"
#include "moxie/ops/sparse_transport.hpp"

namespace moxie {

namespace detail {
inline constexpr Index sparse_sum_rows = 64;  // of a partial sum over tokens; part of the result

MOXIE_HD MOXIE_INLINE constexpr Index sparse_sums_of(Index group) {
  return (group + sparse_sum_rows - 1) / sparse_sum_rows;
}
}  // namespace detail

/// Memory of `sparse_transport_tokens` for T tokens.
template <Backend B>
struct SparseTokensMemory {
  Matrix<B> potential, first, second, gradient;  // [G, E] of the experts, and Adam's moments
  IntMatrix<B> ids;                              // [T, k] experts of each row's largest entries
  Matrix<B> sums;                                // [chunks, E] parts of the experts' loads
  IntVector<B> count, done;                      // [G]

  void bind(Arena<B>& arena, Index tokens, Index experts, Index group, Index nonzeros) {
    using T = typename B::Scalar;
    using Id = std::int32_t;
    const Index groups = group > 0 ? tokens / group : 0;
    for (Matrix<B>* m : {&potential, &first, &second, &gradient})
      *m = arena.template scratch<T>(groups, experts);
    ids = arena.template scratch<Id>(tokens, nonzeros < experts ? nonzeros : experts);
    sums = arena.template scratch<T>(groups * detail::sparse_sums_of(group), experts);
    count = arena.template scratch<Id>(groups);
    done = arena.template scratch<Id>(groups);
  }
};

namespace detail {
template <class T>
struct SparseRowScore {
  const T* similarity;  // [E]
  const T* potential;   // [E]

  MOXIE_HD MOXIE_INLINE bool admits(Index) const { return true; }
  MOXIE_HD MOXIE_INLINE T operator()(Index e) const { return potential[e] + similarity[e]; }
};
template <Backend B>
struct SparseRow {
  static constexpr bool one_level = true;
  ConstMatrix<B> similarity;
  ConstIntVector<B> mask;
  Index group;
  typename B::Scalar gamma;
  bool last_time;  // also of groups that are done, whose last step came after their rows
  SparseTokensMemory<B> m;
  Matrix<B> plan;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const Index g = t / group;
    if (m.done[g] != 0 && !last_time) return;
    T* row = plan.row(t);
    for (Index e = 0; e < plan.cols; ++e) row[e] = 0;
    if (mask && mask[t] == 0) return;
    const SparseRowScore<T> score{similarity.row(t), m.potential.row(g)};
    std::int32_t* ids = m.ids.row(t);
    const Index n = largest_ids(0, plan.cols, m.ids.cols, score, ids);
    const T tau =
        simplex_threshold<T>(n, T(1), [=, this](Index j) { return score(ids[j]) / gamma; });
    for (Index j = 0; j < n; ++j) row[ids[j]] = math::maximum(score(ids[j]) / gamma - tau, T(0));
  }
};
template <Backend B>
struct SparseLoadPart {
  static constexpr bool one_level = true;
  ConstMatrix<B> plan;
  Index group;
  SparseTokensMemory<B> m;

  MOXIE_HD void operator()(Index i, Index e) const {
    const Index chunks = sparse_sums_of(group);
    const Index g = i / chunks;
    if (m.done[g] != 0) return;
    const Index first = g * group + i % chunks * sparse_sum_rows;
    const Index end = (g + 1) * group;
    const Index last = first + sparse_sum_rows < end ? first + sparse_sum_rows : end;
    typename B::Scalar sum = 0;
    for (Index t = first; t < last; ++t) sum += plan(t, e);
    m.sums(i, e) = sum;
  }
};
template <Backend B>
struct SparseExpertStep {
  static constexpr bool one_level = true;
  Index group;
  SparseTokensMemory<B> m;
  AdamStep<typename B::Scalar> adam;

  MOXIE_HD void operator()(Index g, Index e) const {
    using T = typename B::Scalar;
    if (m.done[g] != 0) return;
    const Index chunks = sparse_sums_of(group);
    T load = 0;
    for (Index i = g * chunks; i < (g + 1) * chunks; ++i) load += m.sums(i, e);
    const T gradient = load - static_cast<T>(m.count[g]) / static_cast<T>(m.gradient.cols);
    adam(gradient, m.first(g, e), m.second(g, e), m.potential(g, e));
    m.gradient(g, e) = gradient;
  }
};
}  // namespace detail

/// plan = the transport plan with at most k non-zeros in each token's row, which sum to 1 exactly; an expert's column of
/// a group sums to about n / E. See sparse_transport.hpp.
///
/// similarity (>= 0), plan: [T, E], different memory; mask: [T] or empty, rows of masked tokens become 0. The same bits
/// on any number of threads. Cost: O(T E) a step. Does not block: groups that are done are skipped.
struct SparseTransportTokens {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> similarity, ConstIntVector<B> mask,
                  const SparseTransportOptions& options, const SparseTokensMemory<B>& memory,
                  Matrix<B> plan) const {
    detail::run_or_generic(*this, b, similarity, mask, options, memory, plan);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> similarity, ConstIntVector<B> mask,
                      const SparseTransportOptions& options, const SparseTokensMemory<B>& m,
                      Matrix<B> plan) {
    using T = typename B::Scalar;
    const Index tokens = plan.rows;
    if (tokens == 0) return;
    const Index group = options.group;
    const Index groups = tokens / group;
    const auto gamma = static_cast<T>(options.gamma);
    const auto zero = [&b](Matrix<B> v) { b.fill(Vector<B>(v.data, v.size()), T(0)); };
    zero(m.potential);
    zero(m.first);
    zero(m.second);
    b.for_each(groups, detail::CountTokens<B>{mask, group, m.count, m.done});
    for (Index step = 1; step <= options.max_iterations; ++step) {
      b.for_each(tokens, detail::SparseRow<B>{similarity, mask, group, gamma, false, m, plan});
      b.for_each(m.sums.rows, plan.cols, detail::SparseLoadPart<B>{plan, group, m});
      b.for_each(
          groups, plan.cols,
          detail::SparseExpertStep<B>{group, m, detail::AdamStep<T>(options.learning_rate, step)});
      b.for_each(groups, detail::SparseSettle<B>{m.gradient, options.tolerance, m.done});
    }
    b.for_each(tokens, detail::SparseRow<B>{similarity, mask, group, gamma, true, m, plan});
  }
};
inline constexpr SparseTransportTokens sparse_transport_tokens{};

}  // namespace moxie
