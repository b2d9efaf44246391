#pragma once

#include "moxie/regularizer/jensen_shannon.hpp"

namespace moxie {

/// Divergence of routes in two views: weight * mean over the pairs of `Pass::pairs` of
/// KL(p_a | m) / 2 + KL(p_b | m) / 2, m = (p_a + p_b) / 2, p the clean probabilities of a token. In nats:
/// 0 to log 2; 0 without pairs. Nothing in it asks for balance. Source: `jsd` of the released code of
/// Pairwise Router Consistency, which multiplies each image's sum by the number of its pairs.
using PairwiseJsd = PairwiseDistance<detail::JensenShannon>;

}  // namespace moxie
