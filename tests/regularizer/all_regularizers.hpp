#pragma once

#include "moxie/regularizer/global_entropy.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/regularizer/local_entropy.hpp"
#include "moxie/regularizer/mutual_information.hpp"
#include "moxie/regularizer/noisy_load.hpp"
#include "moxie/regularizer/pairwise_consistency.hpp"
#include "moxie/regularizer/pairwise_jsd.hpp"
#include "moxie/regularizer/pairwise_l2.hpp"
#include "moxie/regularizer/pairwise_top_k_jsd.hpp"
#include "moxie/regularizer/router_z.hpp"
#include "moxie/regularizer/switch_balance.hpp"
#include "moxie/regularizer/threshold_entropy.hpp"
#include "moxie/regularizer/top_k_balance.hpp"
#include "moxie/regularizer/tutel_importance.hpp"
#include "moxie/regularizer/tutel_load.hpp"
#include "moxie/regularizer/with_decay.hpp"

namespace moxie::test {

/// f(regularizer) for one of each kind.
template <class F>
void for_each_regularizer(double weight, const F& f) {
  f(Importance{.weight = weight});
  f(Importance{.weight = weight, .variation = {.unbiased = true}});
  f(NoisyLoad{.weight = weight});
  f(SwitchBalance{.weight = weight});
  f(TopKBalance{.weight = weight});
  f(RouterZ{.weight = weight});
  f(LocalEntropy{.weight = weight});
  f(GlobalEntropy{.weight = weight});
  f(ThresholdEntropy{.weight = weight});
  f(ThresholdEntropy{.weight = weight, .used = 2});
  f(MutualInformation{.weight = weight});
  f(TutelImportance{.weight = weight});
  f(TutelLoad{.weight = weight});
  f(PairwiseConsistency{.weight = weight, .diagonal = 0.7, .off_diagonal = 0.9});
  f(PairwiseConsistency{.weight = weight,
                        .diagonal = 0.7,
                        .off_diagonal = 0.9,
                        .form = ConsistencyDiagonal::position,
                        .tokens_per_image = 3,
                        .positions = 2});
  f(PairwiseL2{.weight = weight});
  f(PairwiseJsd{.weight = weight});
  f(PairwiseTopKJsd{.weight = weight});
  f(WithDecay{LossDecay::linear, MutualInformation{.weight = weight}});
}

}  // namespace moxie::test
