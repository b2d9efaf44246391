#pragma once

#include "moxie/ops/rank.hpp"
#include "moxie/routing/tensors.hpp"

/// Ranks of a token's gates, whatever the router chose: capacity, a plan, a bias or routes from
/// outside may have chosen otherwise. Logits are ranked, as in selection; ties go to the lower
/// expert.
namespace moxie::detail {

/// Whether expert e is one of the k best. Most experts are beaten early, so this seldom looks at
/// all of them.
template <class T>
MOXIE_HD bool in_top(const T* logits, Index experts, Index e, Index k) {
  Index above = 0;
  for (Index j = 0; j < experts; ++j)
    if ((above += ranks_above(logits[j], j, logits[e], e)) == k) return false;
  return true;
}
/// The k-th best expert.
template <class T>
MOXIE_HD Index kth_best(const T* logits, Index experts, Index k) {
  return column_of_rank(experts, k - 1, [=](Index e) { return logits[e]; });
}
/// The k-th best expert; `guess` is taken where it is right, which one look at each expert tells.
template <class T>
MOXIE_HD Index kth_best(const T* logits, Index experts, Index k, Index guess) {
  if (guess >= 0) {
    Index above = 0;
    for (Index j = 0; j < experts; ++j) above += ranks_above(logits[j], j, logits[guess], guess);
    if (above == k - 1) return guess;
  }
  return kth_best(logits, experts, k);
}

}  // namespace moxie::detail
