#pragma once

#include "moxie/routing/tensors.hpp"

namespace moxie::detail {

/// sums[g, e] = sum of the probabilities of expert e over the tokens of group g that count.
template <Backend B>
struct GroupProbabilitySum {
  static constexpr bool one_level = true;
  ConstMatrix<B> probs;
  ConstIntVector<B> mask;
  Index group;
  Vector<B> sums;

  MOXIE_HD void operator()(Index i) const {
    const Index g = i / probs.cols;
    const Index e = i % probs.cols;
    typename B::Scalar sum = 0;
    for (Index t = g * group; t < (g + 1) * group; ++t)
      if (!(mask && mask[t] == 0)) sum += probs(t, e);
    sums[i] = sum;
  }
};

/// Tokens of group g that count.
template <class T, class Mask>
MOXIE_HD T count_tokens(const Mask& mask, Index group, Index g) {
  if (!mask) return static_cast<T>(group);
  Index n = 0;
  for (Index t = g * group; t < (g + 1) * group; ++t) n += mask[t] != 0 ? 1 : 0;
  return static_cast<T>(n);
}

/// out[0] = weight * mean over groups of loss(sums of the group).
template <Backend B, class Loss>
struct MeanOfGroups {
  static constexpr bool one_level = true;
  ConstVector<B> sums;  // [G, sums of a group]
  Index groups;
  Loss loss;
  double weight;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    T total = 0;
    for (Index g = 0; g < groups; ++g) total += loss(sums.data + g * (sums.size / groups));
    out[0] = groups > 0 ? static_cast<T>(weight) * total / static_cast<T>(groups) : T(0);
  }
};

}  // namespace moxie::detail
