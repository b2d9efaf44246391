#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "backend.hpp"
#include "data/image_set.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/nn/residual_network.hpp"
#include "moxie/nn/vit_config.hpp"
#include "options.hpp"

namespace vmoe {

using Model = moxie::AnyLayer<Backend>;

/// What the options make of a model for images of this shape: a vision transformer, or a mixture of
/// whole networks (image_moe.hpp).
struct ModelPlan {
  moxie::VitConfig vit;  ///< moe_blocks: those with experts, or with the dense twin's perceptrons
  moxie::VitConfig expert{};                        ///< of a mixture of whole transformers
  std::optional<moxie::ResidualConfig> residual{};  ///< of a mixture of residual networks
  Index dense_hidden = 0;   ///< hidden width of the perceptron there in the dense twin
  double active_flops = 0;  ///< of a forward pass over one image, 2 per multiply-add
};

/// @throws moxie::config_error if an option makes no sense or does not fit the images
ModelPlan plan_model(const Options& options, const ImageShape& image, Index classes);

/// Builds a model inside another one; the other one initializes its parameters.
/// @throws moxie::config_error
Model make_part(const moxie::Scope<Backend>& scope, const Options& options, const ModelPlan& plan);

/// Builds the model with its parameters initialized from options.seed.
/// @throws moxie::config_error
Model make_model(Backend& backend, const Options& options, const ModelPlan& plan);

/// For config.json and the report: sizes, placement, number of parameters.
nlohmann::json describe(const Options& options, const ModelPlan& plan, const Model& model);

}  // namespace vmoe
