#pragma once

#include "moxie/core/strip.hpp"
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
/// How many experts rank above expert e. By strips where a vector counts them; a thread of a device would keep a strip in
/// memory.
template <bool Strips, class T>
MOXIE_HD MOXIE_INLINE Index ranked_above(const T* logits, Index experts, Index e) {
  const T own = logits[e];
  const auto at = static_cast<std::int32_t>(e);
  const auto above = [=](Index j) {
    const T other = logits[j];
    return static_cast<std::int32_t>(other > own) |
           (static_cast<std::int32_t>(other == own) &
            static_cast<std::int32_t>(static_cast<std::int32_t>(j) < at));
  };
  if constexpr (Strips) {
    return strip_sum<std::int32_t, half_strip>(experts, above);
  } else {
    std::int32_t count = 0;
    for (Index j = 0; j < experts; ++j) count += above(j);
    return count;
  }
}
/// The k-th best expert; `guess` is taken where it is right, which one look at each expert tells.
template <bool Strips, class T>
MOXIE_HD MOXIE_INLINE Index kth_best(const T* logits, Index experts, Index k, Index guess) {
  if (guess >= 0 && ranked_above<Strips>(logits, experts, guess) == k - 1) return guess;
  return kth_best(logits, experts, k);
}

}  // namespace moxie::detail
