#pragma once

#include "moxie/ops/row_map.hpp"
#include "moxie/routing/tensors.hpp"

/// What token choice ranks by when its layer may keep a bias for selection (router/bias.hpp).
namespace moxie::detail {

template <Backend B>
struct AddBias {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores;
  ConstVector<B> bias;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    const auto* score = scores.row(t);
    const auto* add = bias.data;
    row_map(scores.cols, out.row(t), [=](Index e) { return score[e] + add[e]; });
  }
};

/// Bytes of r.scratch that `ranked_scores` takes with a bias.
template <Backend B>
std::size_t ranked_scores_bytes(const RoutingShape& shape) {
  return static_cast<std::size_t>(shape.tokens * shape.experts) * sizeof(typename B::Scalar);
}
/// The logits, noise included: they rank as the scores do, without saturating. With a bias: scores + bias, in r.scratch.
template <Backend B>
ConstMatrix<B> ranked_scores(B& b, const SparseRouting<B>& r) {
  if (!r.bias) return r.noisy_logits;
  const Matrix<B> ranked(reinterpret_cast<typename B::Scalar*>(r.scratch.data), r.shape.tokens,
                         r.shape.experts);
  b.for_each(r.shape.tokens, AddBias<B>{r.noisy_probs, r.bias, ranked});
  return ranked;
}

}  // namespace moxie::detail
