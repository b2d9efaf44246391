#include "conformance/case.hpp"

namespace moxie::conformance {

std::vector<Kind> all_kinds() {
  std::vector<Kind> all;
  for (const auto& family : {capacity_kinds, token_choice_kinds, expert_choice_kinds,
                             sinkhorn_kinds, sparse_kinds, soft_kinds, layer_kinds, loss_kinds,
                             bias_kinds, pair_kinds, training_kinds, attack_kinds, robust_kinds})
    for (const Kind& kind : family()) all.push_back(kind);
  return all;
}

}  // namespace moxie::conformance
