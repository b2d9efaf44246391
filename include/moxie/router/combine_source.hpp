#pragma once

#include "moxie/core/error.hpp"
#include "moxie/ops/softmax.hpp"
#include "moxie/routing/tensors.hpp"

namespace moxie {

/// Whose entries the combine weights are.
enum class CombineSource {
  softmax_noisy,  ///< the probabilities that selection may have seen: noisy in training
  softmax_clean,  ///< those without noise
  plan            ///< the transport plan, of routers that make one
};

/// What routers share that weigh their assignments by some [T, E] matrix of gates.
namespace detail {

template <Backend B>
struct WeighToken {
  static constexpr bool one_level = true;
  ConstMatrix<B> gates;
  SparseRouting<B> r;
  bool renormalize;
  typename B::Scalar scale;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    T sum = 0;
    for (Index a = r.begin(t); a < r.end(t); ++a) {
      const Index e = r.choice.data[a];
      const T weight = e < 0 ? T(0) : gates(t, e);
      r.weight.data[a] = weight;
      sum += weight;
    }
    if (!renormalize || !(sum > 0)) sum = 1;
    if (sum == T(1) && scale == T(1)) return;
    for (Index a = r.begin(t); a < r.end(t); ++a) r.weight.data[a] = scale * r.weight.data[a] / sum;
  }
};

template <Backend B>
struct WeighTokenBackward {
  static constexpr bool one_level = true;
  ConstMatrix<B> gates;
  SparseRouting<B> r;
  ConstMatrix<B> d_weight;
  Matrix<B> d_gates;
  bool renormalize;
  typename B::Scalar scale;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    T sum = 1;
    T inner = 0;
    if (renormalize) {
      sum = 0;
      for (Index a = r.begin(t); a < r.end(t); ++a) {
        const Index e = r.choice.data[a];
        if (e < 0) continue;
        sum += gates(t, e);
        inner += d_weight.data[a] * r.weight.data[a];
      }
      if (!(sum > 0)) sum = 1;  // as forward, which then does not divide
    }
    for (Index a = r.begin(t); a < r.end(t); ++a)
      if (const Index e = r.choice.data[a]; e >= 0)
        d_gates(t, e) += (scale * d_weight.data[a] - inner) / sum;
  }
};

/// r.probs and r.noisy_probs from the logits of the same names.
template <Backend B>
void score_softmax(B& b, SparseRouting<B>& r) {
  softmax_rows(b, ConstMatrix<B>(r.logits), r.probs);
  if (r.noisy()) softmax_rows(b, ConstMatrix<B>(r.noisy_logits), r.noisy_probs);
}
/// g.logits += the gradients that came to r.probs and r.noisy_probs.
template <Backend B>
void score_softmax_backward(B& b, const SparseRouting<B>& r,
                            RoutingGradients<SparseRouting<B>>& g) {
  softmax_rows_backward(b, ConstMatrix<B>(r.probs), ConstMatrix<B>(g.probs), g.logits, true);
  if (r.noisy())
    softmax_rows_backward(b, ConstMatrix<B>(r.noisy_probs), ConstMatrix<B>(g.noisy_probs), g.logits,
                          true);
}

template <Backend B>
ConstMatrix<B> gates_of(const SparseRouting<B>& r, CombineSource source) {
  if (source == CombineSource::plan) return r.plan;
  return source == CombineSource::softmax_clean ? r.probs : r.noisy_probs;
}
/// r.weight of each assignment, times `scale`; `renormalize` divides by the sum over the token's assignments.
template <Backend B>
void weigh_by(B& b, CombineSource source, bool renormalize, SparseRouting<B>& r, double scale = 1) {
  b.for_each(r.shape.tokens, WeighToken<B>{gates_of(r, source), r, renormalize,
                                           static_cast<typename B::Scalar>(scale)});
}
/// Adds to the gradient of the source what comes from g.weight.
template <Backend B>
void weigh_by_backward(B& b, CombineSource source, bool renormalize, const SparseRouting<B>& r,
                       RoutingGradients<SparseRouting<B>>& g, double scale = 1) {
  const Matrix<B> d_gates = source == CombineSource::plan            ? g.plan
                            : source == CombineSource::softmax_clean ? g.probs
                                                                     : g.noisy_probs;
  b.for_each(r.shape.tokens,
             WeighTokenBackward<B>{gates_of(r, source), r, g.weight, d_gates, renormalize,
                                   static_cast<typename B::Scalar>(scale)});
}

/// @throws config_error if weights are to come from a plan
inline void refuse_plan(const char* who, CombineSource source) {
  if (source == CombineSource::plan)
    throw_config(who, ": combine_source is plan, expected a softmax (this router makes no plan)");
}

}  // namespace detail
}  // namespace moxie
