#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "moxie/routing/statistics.hpp"

namespace vmoe {

/// Share of the assignments of all layers that got no slot.
double dropped_share(const std::vector<moxie::RoutingStatistics>& layers);

/// [{"block", "load": share of each expert, "dropped", "load_cv", "max_violation", "dead_experts", "gate_entropy",
/// "margin", "experts_per_token", "marginal_error", "unrouted"}]; blocks[i] holds the i-th MoE layer.
nlohmann::json layer_figures(const std::vector<moxie::RoutingStatistics>& layers,
                             const std::vector<moxie::Index>& blocks);

}  // namespace vmoe
