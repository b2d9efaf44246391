#pragma once

#include "moxie/routing/tensors.hpp"

/// Ranks of a token's gates, whatever the router chose: capacity, a plan, a bias or routes from
/// outside may have chosen otherwise. Logits are ranked, as in selection; ties go to the lower
/// expert.
namespace moxie::detail {

/// Whether expert a ranks above expert b: 1 or 0, without a branch, since nobody can predict it.
template <class T>
MOXIE_HD MOXIE_INLINE int ranks_above(const T* logits, Index a, Index b) {
  return static_cast<int>(logits[a] > logits[b]) |
         (static_cast<int>(logits[a] == logits[b]) & static_cast<int>(a < b));
}
/// Whether expert e is one of the k best. Most experts are beaten early, so this seldom looks at
/// all of them.
template <class T>
MOXIE_HD bool in_top(const T* logits, Index experts, Index e, Index k) {
  Index above = 0;
  for (Index j = 0; j < experts; ++j)
    if ((above += ranks_above(logits, j, e)) == k) return false;
  return true;
}
/// The k-th best expert.
template <class T>
MOXIE_HD Index kth_best(const T* logits, Index experts, Index k) {
  Index last = -1;
  for (Index step = 0; step < k && step < experts; ++step) {
    Index next = -1;
    for (Index e = 0; e < experts; ++e)
      if ((last < 0 || ranks_above(logits, last, e) != 0) && (next < 0 || logits[e] > logits[next]))
        next = e;
    last = next;
  }
  return last;
}
/// The k-th best expert; `guess` is taken where it is right, which one look at each expert tells.
template <class T>
MOXIE_HD Index kth_best(const T* logits, Index experts, Index k, Index guess) {
  if (guess >= 0) {
    Index above = 0;
    for (Index j = 0; j < experts; ++j) above += ranks_above(logits, j, guess);
    if (above == k - 1) return guess;
  }
  return kth_best(logits, experts, k);
}

}  // namespace moxie::detail
