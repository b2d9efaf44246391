#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// The problem and how long to work on it.
struct SinkhornOptions {
  Index group = 0;     ///< S: tokens of a group, which lie together; each is a problem of its own
  double epsilon = 1;  ///< weight of the entropy
  Index iterations = 20;  ///< updates of experts and tokens, at most
  double tolerance = 0;   ///< > 0: a group stops when its marginal error is at most this
};

namespace detail {
inline constexpr Index sinkhorn_rows = 64;  // of a partial sum over tokens; part of the result
inline constexpr Index sinkhorn_strip = 8;  // experts side by side

MOXIE_HD MOXIE_INLINE constexpr Index sinkhorn_chunks(Index group) {
  return (group + sinkhorn_rows - 1) / sinkhorn_rows;
}
MOXIE_HD MOXIE_INLINE constexpr Index sinkhorn_strips(Index experts) {
  return (experts + sinkhorn_strip - 1) / sinkhorn_strip;
}
/// Tokens [first, last) of chunk i, counted through all groups.
struct TokenChunk {
  Index group, first, last;

  MOXIE_HD MOXIE_INLINE TokenChunk(Index i, Index tokens) {
    const Index chunks = sinkhorn_chunks(tokens);
    group = i / chunks;
    first = group * tokens + i % chunks * sinkhorn_rows;
    const Index end = (group + 1) * tokens;
    last = first + sinkhorn_rows < end ? first + sinkhorn_rows : end;
  }
};
}  // namespace detail

/// Memory of `sinkhorn` for T tokens.
template <Backend B>
struct SinkhornMemory {
  Vector<B> token;                  // [T] potentials f
  Matrix<B> expert, next;           // [G, E] potentials g, and what the next update would make them
  Matrix<B> peak, sum;              // [chunks, E] parts of a log-sum-exp over tokens
  Vector<B> target;                 // [G] log of an expert's share b
  Vector<B> top;                    // [G] largest logit
  IntVector<B> chunk_tokens, done;  // [chunks], [G]

  void bind(Arena<B>& arena, Index tokens, Index experts, Index group) {
    using T = typename B::Scalar;
    const Index groups = group > 0 ? tokens / group : 0;
    const Index chunks = groups * detail::sinkhorn_chunks(group);
    token = arena.template scratch<T>(tokens);
    expert = arena.template scratch<T>(groups, experts);
    next = arena.template scratch<T>(groups, experts);
    peak = arena.template scratch<T>(chunks, experts);
    sum = arena.template scratch<T>(chunks, experts);
    target = arena.template scratch<T>(groups);
    top = arena.template scratch<T>(groups);
    chunk_tokens = arena.template scratch<std::int32_t>(chunks);
    done = arena.template scratch<std::int32_t>(groups);
  }
};

namespace detail {
/// exp(value(j) - peak) summed over j < n, eight at a time; in float the rest is filled up, so that
/// it is a vector too.
template <class T, class F>
MOXIE_HD MOXIE_INLINE T sum_of_exp(Index n, T peak, const F& value) {
  constexpr Index width = sinkhorn_strip;
  T part[width] = {};
  Index j = 0;
  for (; j + width <= n; j += width)
    for (Index s = 0; s < width; ++s) part[s] += math::exp(value(j + s) - peak);
  if constexpr (sizeof(T) == sizeof(float)) {
    T rest[width] = {};
    for (Index s = 0; j + s < n; ++s) rest[s] = value(j + s) - peak;
    for (Index s = 0; s < width; ++s) rest[s] = math::exp(rest[s]);
    for (Index s = 0; j + s < n; ++s) part[s] += rest[s];
  } else {
    for (Index s = 0; j + s < n; ++s) part[s] += math::exp(value(j + s) - peak);
  }
  for (Index half = width / 2; half > 0; half /= 2)
    for (Index s = 0; s < half; ++s) part[s] += part[s + half];
  return part[0];
}

// The plan's memory holds Z = (logits - their row's maximum) / epsilon until the last step. The
// maxima go into the potentials of the tokens that the iteration starts from, less the largest of
// all: one constant for the whole group, so the iterates are those of the logits as they are.
template <Backend B>
struct SinkhornCenter {
  ConstMatrix<B> logits;
  ConstIntVector<B> mask;
  typename B::Scalar epsilon;
  Matrix<B> plan;
  Vector<B> token;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    token[t] = 0;
    if (mask && mask[t] == 0) return;
    const T* from = logits.row(t);
    const T scale = T(1) / epsilon;
    const T peak = strip_maximum<T>(plan.cols, [=](Index e) { return from[e]; });
    row_map(plan.cols, plan.row(t), [=](Index e) { return (from[e] - peak) * scale; });
    token[t] = peak;
  }
};
template <Backend B>
struct SinkhornChunkTop {
  ConstIntVector<B> mask;
  Index group;
  SinkhornMemory<B> m;

  MOXIE_HD void operator()(Index i) const {
    using T = typename B::Scalar;
    const TokenChunk chunk(i, group);
    T top = math::lowest<T>();
    Index count = 0;
    for (Index t = chunk.first; t < chunk.last; ++t) {
      if (mask && mask[t] == 0) continue;
      top = math::maximum(top, m.token[t]);
      ++count;
    }
    m.peak(i, 0) = top;
    m.chunk_tokens[i] = static_cast<std::int32_t>(count);
  }
};
template <Backend B>
struct SinkhornGroup {
  Index group;
  SinkhornMemory<B> m;

  MOXIE_HD void operator()(Index g) const {
    using T = typename B::Scalar;
    const Index chunks = sinkhorn_chunks(group);
    T top = math::lowest<T>();
    Index count = 0;
    for (Index i = g * chunks; i < (g + 1) * chunks; ++i) {
      top = math::maximum(top, m.peak(i, 0));
      count += m.chunk_tokens[i];
    }
    m.top[g] = top;
    m.done[g] = count == 0 ? 1 : 0;  // nothing to route
    m.target[g] =
        count == 0 ? T(0) : math::log(static_cast<T>(count) / static_cast<T>(m.expert.cols));
    for (Index e = 0; e < m.expert.cols; ++e) m.expert(g, e) = 0;
  }
};
template <Backend B>
struct SinkhornStart {
  ConstIntVector<B> mask;
  Index group;
  typename B::Scalar epsilon;
  SinkhornMemory<B> m;

  MOXIE_HD void operator()(Index t) const {
    if (mask && mask[t] == 0) return;
    m.token[t] = (m.token[t] - m.top[t / group]) / epsilon;
  }
};

/// Parts of LSE_s(Z_se + f_s) over one chunk of tokens, eight experts side by side.
template <Backend B>
struct SinkhornColumns {
  ConstMatrix<B> z;
  ConstIntVector<B> mask;
  Index group;
  SinkhornMemory<B> m;

  MOXIE_HD MOXIE_INLINE void operator()(Index task) const {
    const Index strips = sinkhorn_strips(z.cols);
    const Index i = task / strips;
    const TokenChunk chunk(i, group);
    if (m.done[chunk.group] != 0) return;
    const Index first = task % strips * sinkhorn_strip;
    const Index n = z.cols - first < sinkhorn_strip ? z.cols - first : sinkhorn_strip;
    if (n == sinkhorn_strip) {
      add(chunk, i, first, [](Index) { return true; });
    } else {
      add(chunk, i, first, [=](Index k) { return k < n; });
    }
  }

 private:
  template <class Used>
  MOXIE_HD MOXIE_INLINE void add(const TokenChunk& chunk, Index i, Index first,
                                 const Used& used) const {
    using T = typename B::Scalar;
    constexpr Index width = sinkhorn_strip;
    T peak[width];
    T sum[width] = {};
    T value[width] = {};
    for (Index k = 0; k < width; ++k) peak[k] = math::lowest<T>();
    for (Index t = chunk.first; t < chunk.last; ++t) {
      if (mask && mask[t] == 0) continue;
      const T* row = z.row(t) + first;
      const T f = m.token[t];
      for (Index k = 0; k < width; ++k)
        if (used(k)) peak[k] = math::maximum(peak[k], row[k] + f);
    }
    for (Index t = chunk.first; t < chunk.last; ++t) {
      if (mask && mask[t] == 0) continue;
      const T* row = z.row(t) + first;
      const T f = m.token[t];
      for (Index k = 0; k < width; ++k)
        if (used(k)) value[k] = row[k] + f - peak[k];
      for (Index k = 0; k < width; ++k) sum[k] += math::exp(value[k]);
    }
    for (Index k = 0; k < width; ++k) {
      if (!used(k)) continue;
      m.peak(i, first + k) = peak[k];
      m.sum(i, first + k) = sum[k];
    }
  }
};
/// g_e = log b_e - LSE_s(Z_se + f_s).
template <Backend B>
struct SinkhornExpert {
  Index group;
  SinkhornMemory<B> m;
  Matrix<B> potential;

  MOXIE_HD void operator()(Index g, Index e) const {
    using T = typename B::Scalar;
    if (m.done[g] != 0) return;
    const Index chunks = sinkhorn_chunks(group);
    const Index first = g * chunks;
    T peak = m.peak(first, e);
    for (Index i = first + 1; i < first + chunks; ++i) peak = math::maximum(peak, m.peak(i, e));
    T sum = 0;
    for (Index i = first; i < first + chunks; ++i)
      if (m.chunk_tokens[i] > 0) sum += m.sum(i, e) * math::exp(m.peak(i, e) - peak);
    potential(g, e) = m.target[g] - (peak + math::log(sum));
  }
};
/// Takes the next potentials, unless the sums over tokens were near enough to their targets:
/// sum / target = exp(g - next).
template <Backend B>
struct SinkhornSettle {
  bool first;  // the start is no plan whose error could be measured
  double tolerance;
  SinkhornMemory<B> m;

  MOXIE_HD void operator()(Index g) const {
    using T = typename B::Scalar;
    if (m.done[g] != 0) return;
    T error = 0;
    for (Index e = 0; e < m.expert.cols; ++e)
      error = math::maximum(error, math::abs(math::exp(m.expert(g, e) - m.next(g, e)) - T(1)));
    if (!first && error <= static_cast<T>(tolerance)) {
      m.done[g] = 1;
      return;
    }
    for (Index e = 0; e < m.expert.cols; ++e) m.expert(g, e) = m.next(g, e);
  }
};
/// f_s = -LSE_e(Z_se + g_e).
template <Backend B>
struct SinkhornToken {
  ConstMatrix<B> z;
  ConstIntVector<B> mask;
  Index group;
  SinkhornMemory<B> m;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    const Index g = t / group;
    if ((mask && mask[t] == 0) || m.done[g] != 0) return;
    const T* row = z.row(t);
    const T* potential = m.expert.row(g);
    const auto value = [=](Index e) { return row[e] + potential[e]; };
    // The experts' update left exp(Z_se + f_s + g_e) at most n / E, so the potential as it is serves
    // in place of the maximum, unless the row is all but empty.
    T peak = -m.token[t];
    T sum = sum_of_exp<T>(z.cols, peak, value);
    if (!(sum > T(1e-30))) {
      peak = strip_maximum<T>(z.cols, value);
      sum = sum_of_exp<T>(z.cols, peak, value);
    }
    m.token[t] = -(peak + math::log(sum));
  }
};
template <Backend B>
struct SinkhornPlan {
  ConstIntVector<B> mask;
  Index group;
  SinkhornMemory<B> m;
  Matrix<B> plan;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    T* row = plan.row(t);
    if (mask && mask[t] == 0) {
      for (Index e = 0; e < plan.cols; ++e) row[e] = 0;
      return;
    }
    const T* potential = m.expert.row(t / group);
    const T f = m.token[t];
    row_map(plan.cols, row, [=](Index e) { return math::exp(row[e] + f + potential[e]); });
  }
};
/// Z in the plan's memory, the potentials that the iteration starts from, and the targets.
template <Backend B>
void begin_sinkhorn(B& b, ConstMatrix<B> logits, ConstIntVector<B> mask,
                    const SinkhornOptions& options, const SinkhornMemory<B>& m, Matrix<B> plan) {
  const Index group = options.group;
  const Index groups = logits.rows / group;
  const auto epsilon = static_cast<typename B::Scalar>(options.epsilon);
  b.for_each(logits.rows, SinkhornCenter<B>{logits, mask, epsilon, plan, m.token});
  b.for_each(groups * sinkhorn_chunks(group), SinkhornChunkTop<B>{mask, group, m});
  b.for_each(groups, SinkhornGroup<B>{group, m});
  b.for_each(logits.rows, SinkhornStart<B>{mask, group, epsilon, m});
}
}  // namespace detail

/// plan = exp(logits / epsilon + f 1^T + 1 g^T) for each group: the entropy-regularized transport plan with marginals
/// 1 for each token and n / E for each expert, n = tokens that are not masked. From potentials 0, each iteration
/// updates g and then f, so that rows sum to 1 and columns nearly to n / E. Masked tokens are left out, their rows 0.
///
/// logits, plan: [T, E], different memory; T a multiple of options.group; mask: [T] or empty. In the log domain: a
/// number added to all logits of a group changes nothing, and nothing overflows. Rows of any size and thread count give
/// the same bits. Cost: 2 exponentials an entry and iteration, 1 on a CPU (backend/cpu/sinkhorn.hpp). Does not block:
/// with a tolerance, groups that are done are skipped.
/// Source: Cuturi, "Sinkhorn Distances", arXiv 1306.0895; Clark et al., arXiv 2202.01169.
struct Sinkhorn {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> logits, ConstIntVector<B> mask,
                  const SinkhornOptions& options, const SinkhornMemory<B>& memory,
                  Matrix<B> plan) const {
    detail::run_or_generic(*this, b, logits, mask, options, memory, plan);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> logits, ConstIntVector<B> mask,
                      const SinkhornOptions& options, const SinkhornMemory<B>& m, Matrix<B> plan) {
    const Index tokens = logits.rows;
    const Index group = options.group;
    if (tokens == 0) return;
    const Index groups = tokens / group;
    const Index chunks = groups * detail::sinkhorn_chunks(group);
    const Index strips = detail::sinkhorn_strips(logits.cols);
    const bool stops = options.tolerance > 0;
    detail::begin_sinkhorn(b, logits, mask, options, m, plan);
    for (Index i = 0; i < options.iterations; ++i) {
      b.for_each(chunks * strips, detail::SinkhornColumns<B>{plan, mask, group, m}, 1);
      b.for_each(groups, plan.cols, detail::SinkhornExpert<B>{group, m, stops ? m.next : m.expert});
      if (stops) b.for_each(groups, detail::SinkhornSettle<B>{i == 0, options.tolerance, m});
      b.for_each(tokens, detail::SinkhornToken<B>{plan, mask, group, m});
    }
    b.for_each(tokens, detail::SinkhornPlan<B>{mask, group, m, plan});
  }
};
inline constexpr Sinkhorn sinkhorn{};

}  // namespace moxie
