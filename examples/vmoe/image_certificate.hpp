#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "checkpoint_info.hpp"
#include "model.hpp"

namespace vmoe {

/// "certificate", "reasons", "radii" and "layers" of `vmoe certify` for a mixture of whole
/// networks. Radii are sound where K = 1 and the experts are residual networks without norms: while
/// the router keeps its expert, the class is that of the expert alone, whatever its gate. Otherwise
/// the certificate is not_applicable and shares are null; bounds of experts are given where they
/// are known. `images` are test images as the data has them.
nlohmann::json certify_image_moe(const Model& model, const CheckpointInfo& info,
                                 const ModelPlan& plan, const ImageSet& images,
                                 const std::vector<double>& radii);

}  // namespace vmoe
