#pragma once

#include "moxie/ops/sinkhorn.hpp"

/// Sinkhorn with one exponential an entry and iteration, and one pass over the matrix. What a token's update sums up is,
/// over its sum, the token's row of the plan, whose columns the experts' next update needs: so a sweep over a
/// chunk of tokens does the one and sums for the other. A thread has a whole chunk, which on a device would be too much.
namespace moxie::detail {

/// share[e] = exp(row[e] + potential[e] - peak), which over their sum are the token's row of the plan; `peak` as in
/// SinkhornToken.
template <class T>
struct SinkhornShares {
  T peak, sum;

  MOXIE_INLINE SinkhornShares(const T* row, const T* potential, T token, Index n, T* share)
      : peak(-token) {
    sum = of(row, potential, n, share);
    if (!(sum > T(1e-30))) {
      peak = strip_maximum<T>(n, [=](Index e) { return row[e] + potential[e]; });
      sum = of(row, potential, n, share);
    }
  }

 private:
  MOXIE_INLINE T of(const T* row, const T* potential, Index n, T* share) const {
    const T shift = peak;
    return row_map_sum<false>(n, share,
                              [=](Index e) { return math::exp(row[e] + potential[e] - shift); });
  }
};

/// Updates the potentials of a chunk's tokens and takes their part of the sums for the experts' next update.
template <class B>
struct SinkhornSweep {
  ConstMatrix<B> z;
  ConstIntVector<B> mask;
  Index group;
  SinkhornMemory<B> m;

  MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const TokenChunk chunk(i, group);
    if (m.done[chunk.group] != 0) return;
    const T* potential = m.expert.row(chunk.group);
    T* sum = m.sum.row(i);
    T* share = m.peak.row(i);  // one token's after the other; then what the sums are relative to
    row_map(z.cols, sum, [](Index) { return T(0); });
    // The tokens' new potentials are needed in the next sweep alone: their logarithms wait for each other.
    T peaks[sinkhorn_rows];
    T sums[sinkhorn_rows];
    T* token = m.token.data + chunk.first;
    for (Index s = 0; s < chunk.last - chunk.first; ++s) {
      const Index t = chunk.first + s;
      peaks[s] = -token[s];
      sums[s] = 1;
      if (mask && mask[t] == 0) continue;
      const SinkhornShares<T> shares(z.row(t), potential, token[s], z.cols, share);
      peaks[s] = shares.peak;
      sums[s] = shares.sum;
      const T scale = T(1) / shares.sum;
      row_map<half_strip>(z.cols, sum, [=](Index e) { return sum[e] + scale * share[e]; });
    }
    const T* peak = peaks;
    const T* mass = sums;
    row_map<half_strip>(chunk.last - chunk.first, token,
                        [=](Index s) { return -(peak[s] + math::log(mass[s])); });
    for (Index e = 0; e < z.cols; ++e) {
      share[e] = -potential[e];
      if (!(sum[e] > T(1e-30))) by_maximum(chunk, e, share[e], sum[e]);
    }
  }

 private:
  /// The sum of an expert that hardly any token of the chunk wants, relative to the largest summand.
  MOXIE_INLINE void by_maximum(const TokenChunk& chunk, Index e, typename B::Scalar& peak,
                               typename B::Scalar& sum) const {
    using T = typename B::Scalar;
    peak = math::lowest<T>();
    sum = 0;
    for (Index t = chunk.first; t < chunk.last; ++t)
      if (!(mask && mask[t] == 0)) peak = math::maximum(peak, z(t, e) + m.token[t]);
    for (Index t = chunk.first; t < chunk.last; ++t)
      if (!(mask && mask[t] == 0)) sum += math::exp(z(t, e) + m.token[t] - peak);
  }
};

/// SinkhornExpert for a strip of a group's experts.
template <class B>
struct SinkhornExperts {
  Index group;
  SinkhornMemory<B> m;
  Matrix<B> potential;

  static constexpr Index strips(Index experts) { return (experts + strip - 1) / strip; }
  MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index g = i / strips(potential.cols);
    if (m.done[g] != 0) return;
    const Index first = i % strips(potential.cols) * strip;
    const Index n = potential.cols - first < strip ? potential.cols - first : strip;
    const Index chunks = sinkhorn_chunks(group);
    T peak[strip];
    T part[strip];
    T sum[strip] = {};
    for (Index s = 0; s < strip; ++s) peak[s] = math::lowest<T>();
    for (Index c = g * chunks; c < (g + 1) * chunks; ++c) {
      const T* row = m.peak.row(c) + first;
      for (Index s = 0; s < n; ++s) peak[s] = math::maximum(peak[s], row[s]);
    }
    for (Index c = g * chunks; c < (g + 1) * chunks; ++c) {
      if (m.chunk_tokens[c] == 0) continue;
      const T* row = m.peak.row(c) + first;
      const T* of_chunk = m.sum.row(c) + first;
      for (Index s = 0; s < strip; ++s) part[s] = 0;
      for (Index s = 0; s < n; ++s) part[s] = row[s] - peak[s];
      for (Index s = 0; s < strip; ++s) part[s] = math::exp(part[s]);
      for (Index s = 0; s < n; ++s) sum[s] += of_chunk[s] * part[s];
    }
    for (Index s = 0; s < n; ++s)
      potential(g, first + s) = m.target[g] - (peak[s] + math::log(sum[s]));
  }
};

/// The plan, with the last update of the tokens' potentials if there is one (`update`).
template <class B>
struct SinkhornFinish {
  ConstIntVector<B> mask;
  Index group;
  bool update;
  SinkhornMemory<B> m;
  Matrix<B> plan;

  MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const TokenChunk chunk(i, group);
    const T* potential = m.expert.row(chunk.group);
    T* share = m.peak.row(i);
    for (Index t = chunk.first; t < chunk.last; ++t) {
      T* row = plan.row(t);
      const T f = m.token[t];
      if (mask && mask[t] == 0) {
        row_map(plan.cols, row, [](Index) { return T(0); });
      } else if (update && m.done[chunk.group] == 0) {
        const SinkhornShares<T> shares(row, potential, f, plan.cols, share);
        const T scale = T(1) / shares.sum;
        row_map<half_strip>(plan.cols, row, [=](Index e) { return scale * share[e]; });
      } else {
        row_map(plan.cols, row, [=](Index e) { return math::exp(row[e] + f + potential[e]); });
      }
    }
  }
};

/// What Sinkhorn::generic computes.
template <class B>
void cpu_sinkhorn(B& b, ConstMatrix<B> logits, ConstIntVector<B> mask,
                  const SinkhornOptions& options, const SinkhornMemory<B>& m, Matrix<B> plan) {
  if (logits.rows == 0) return;
  const Index group = options.group;
  const Index groups = logits.rows / group;
  const Index chunks = groups * sinkhorn_chunks(group);
  const bool stops = options.tolerance > 0;
  begin_sinkhorn(b, logits, mask, options, m, plan);
  b.for_each(chunks * sinkhorn_strips(logits.cols), SinkhornColumns<B>{plan, mask, group, m}, 1);
  for (Index i = 0; i < options.iterations; ++i) {
    b.for_each(groups * SinkhornExperts<B>::strips(plan.cols),
               SinkhornExperts<B>{group, m, stops ? m.next : m.expert}, 1);
    if (stops) b.for_each(groups, SinkhornSettle<B>{i == 0, options.tolerance, m});
    if (i + 1 < options.iterations) b.for_each(chunks, SinkhornSweep<B>{plan, mask, group, m}, 1);
  }
  b.for_each(chunks, SinkhornFinish<B>{mask, group, options.iterations > 0, m, plan}, 1);
}

}  // namespace moxie::detail
