#pragma once

#include <type_traits>

#include "moxie/regularizer/gate_rank.hpp"

namespace moxie::detail {

/// Each token's threshold: the expert with the K-th largest noisy logit. Load losses measure from
/// that logit.
template <Backend B>
struct LoadThreshold {
  ConstMatrix<B> noisy_logits;
  ConstIntVector<B> mask;
  ConstIntMatrix<B> choice;  // [T, K] where a token's last choice is likely to be it, else empty
  Index choices;

  /// -1 for padding.
  MOXIE_HD Index operator()(Index t) const {
    if (mask && mask[t] == 0) return -1;
    const Index guess = choice ? choice(t, choice.cols - 1) : Index(-1);
    return kth_best<std::is_same_v<typename B::Space, HostSpace>>(
        noisy_logits.row(t), noisy_logits.cols, choices, guess);
  }
};

template <Backend B>
LoadThreshold<B> load_threshold(const Context<B>& ctx, const SparseRouting<B>& r) {
  return {r.noisy_logits, ctx.mask, r.first ? ConstIntMatrix<B>() : ConstIntMatrix<B>(r.choice),
          r.shape.choices};
}

}  // namespace moxie::detail
