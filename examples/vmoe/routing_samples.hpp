#pragma once

#include <nlohmann/json_fwd.hpp>

#include "data/dataset.hpp"
#include "evaluator.hpp"

namespace vmoe {

/// The first `count` test images, spread over the classes, with prediction and the experts of every
/// patch in every MoE layer: the report's routing.json.
nlohmann::json sample_routing(Evaluator& evaluator, const ModelPlan& plan, const Options& options,
                              const Dataset& data, const Normalization& normalization);

}  // namespace vmoe
