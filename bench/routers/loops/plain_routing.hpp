#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "layer_loop.hpp"
#include "moxie/ops/activation.hpp"

namespace bench {

using moxie::Index;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// One piece of work of a loop over tokens.
inline constexpr Index tokens_a_task = 32;
inline Index token_tasks(Index tokens) { return (tokens + tokens_a_task - 1) / tokens_a_task; }
/// f(t) for each token, on the executor.
template <class F>
void for_each_token(moxie::Executor& executor, Index tokens, const F& f) {
  executor.run(token_tasks(tokens), [&](Index task, int) {
    for (Index t = task * tokens_a_task; t < tokens && t < (task + 1) * tokens_a_task; ++t) f(t);
  });
}

/// f(first column, columns) for slices of the columns of x, on the executor: products xᵀ·y whose results do not overlap.
template <class F>
void for_each_column_slice(moxie::Executor& executor, Index columns, const F& f) {
  constexpr Index slice = 16;
  executor.run((columns + slice - 1) / slice, [&](Index task, int) {
    const Index begin = task * slice;
    f(begin, columns - begin < slice ? columns - begin : slice);
  });
}

inline void gelu(const float* pre, float* act, Index n) {
  for (Index i = 0; i < n; ++i) act[i] = moxie::Gelu::value(pre[i]);
}
inline void gelu_backward(const float* pre, float* d, Index n) {
  for (Index i = 0; i < n; ++i) d[i] *= moxie::Gelu::derivative(pre[i]);
}

/// Softmax, the K largest logits, slots first come first served: loops as in a textbook, over tokens or groups.
struct PlainRouting {
  std::vector<float> probs;     // [T, E], logits at first
  std::vector<Index> expert;    // [T, K]
  std::vector<float> weight;    // [T, K]; 0 where dropped
  std::vector<Index> row;       // [T, K] place among the rows of all experts, -1 = dropped
  std::vector<Index> taken;     // [rows] assignment t * K + k of each row
  std::vector<Index> first;     // [E + 1] first row of each expert
  std::vector<float> d_weight;  // [T, K]
  std::vector<float> d_logits;  // [T, E]

  explicit PlainRouting(const LoopProblem& p)
      : probs(at(p.tokens * p.experts)),
        expert(at(p.tokens * p.choices)),
        weight(expert.size()),
        row(expert.size()),
        taken(expert.size()),
        first(at(p.experts + 1)),
        d_weight(expert.size()),
        d_logits(probs.size()),
        start_(at(p.tokens / p.group * p.experts)) {}

  /// From the logits in `probs`.
  void route(const LoopProblem& p, moxie::Executor& executor) {
    for_each_token(executor, p.tokens, [&](Index t) { choose(p, t); });
    const Index groups = p.tokens / p.group;
    executor.run(groups, [&](Index g, int) { take_slots(p, g); });
    // start_: from the number of rows of a group's expert to the first of them.
    Index next = 0;
    for (Index e = 0; e < p.experts; ++e) {
      first[at(e)] = next;
      for (Index g = 0; g < groups; ++g) {
        Index& own = start_[at(g * p.experts + e)];
        const Index count = own;
        own = next;
        next += count;
      }
    }
    first[at(p.experts)] = next;
    executor.run(groups, [&](Index g, int) { place_rows(p, g); });
  }
  /// d_logits from d_weight.
  void backward(const LoopProblem& p, moxie::Executor& executor) {
    for_each_token(executor, p.tokens, [&](Index t) {
      const float* prob = &probs[at(t * p.experts)];
      float* d = &d_logits[at(t * p.experts)];
      for (Index e = 0; e < p.experts; ++e) d[e] = 0;
      float mean = 0;
      for (Index a = t * p.choices; a < (t + 1) * p.choices; ++a) {
        if (row[at(a)] < 0) continue;
        d[expert[at(a)]] = d_weight[at(a)];
        mean += d_weight[at(a)] * prob[expert[at(a)]];
      }
      for (Index e = 0; e < p.experts; ++e) d[e] = prob[e] * (d[e] - mean);
    });
  }

 private:
  void choose(const LoopProblem& p, Index t) {
    float* logit = &probs[at(t * p.experts)];
    for (Index k = 0; k < p.choices; ++k) {
      Index best = -1;
      for (Index e = 0; e < p.experts; ++e) {
        bool chosen = false;
        for (Index j = 0; j < k; ++j) chosen = chosen || expert[at(t * p.choices + j)] == e;
        if (!chosen && (best < 0 || logit[e] > logit[best])) best = e;
      }
      expert[at(t * p.choices + k)] = best;
    }
    const float most = logit[expert[at(t * p.choices)]];
    float sum = 0;
    for (Index e = 0; e < p.experts; ++e) sum += logit[e] = std::exp(logit[e] - most);
    for (Index e = 0; e < p.experts; ++e) logit[e] /= sum;
    for (Index a = t * p.choices; a < (t + 1) * p.choices; ++a)
      weight[at(a)] = logit[expert[at(a)]];
  }
  /// `row`: the place among the rows of the same expert and group; `start_`: how many there are.
  void take_slots(const LoopProblem& p, Index g) {
    Index* used = &start_[at(g * p.experts)];
    for (Index e = 0; e < p.experts; ++e) used[e] = 0;
    for (Index k = 0; k < p.choices; ++k)
      for (Index t = g * p.group; t < (g + 1) * p.group; ++t) {
        const Index a = t * p.choices + k;
        Index& n = used[expert[at(a)]];
        row[at(a)] = n < p.capacity ? n++ : -1;
        if (row[at(a)] < 0) weight[at(a)] = 0;
      }
  }
  void place_rows(const LoopProblem& p, Index g) {
    for (Index a = g * p.group * p.choices; a < (g + 1) * p.group * p.choices; ++a) {
      if (row[at(a)] < 0) continue;
      row[at(a)] += start_[at(g * p.experts + expert[at(a)])];
      taken[at(row[at(a)])] = a;
    }
  }

  std::vector<Index> start_;  // [G, E]
};

}  // namespace bench
