#pragma once

#include "moxie/routing/tensors.hpp"

/// What routers share whose choices and weights do not come from the logits: those have an effect through the losses on
/// probabilities alone (score_softmax, router/combine_source.hpp).
namespace moxie::detail {

template <Backend B>
struct EqualWeights {
  static constexpr bool one_level = true;
  ConstIntMatrix<B> choice;
  Matrix<B> weight;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    for (Index k = 0; k < choice.cols; ++k)
      weight(t, k) = choice(t, k) < 0 ? T(0) : T(1) / static_cast<T>(choice.cols);
  }
};

/// 1 / K for each choice.
template <Backend B>
void weigh_equally(B& b, SparseRouting<B>& r) {
  b.for_each(r.shape.tokens, EqualWeights<B>{r.choice, r.weight});
}

}  // namespace moxie::detail
