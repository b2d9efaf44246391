#pragma once

#include "model.hpp"
#include "moxie/runtime/moe_config.hpp"

namespace vmoe {

/// The options in the library's words.   @throws moxie::config_error
moxie::MoeConfig moe_config(const Options& options, const moxie::VitConfig& vit);

/// The mixture of experts that the options ask for, in place of a block's perceptron.   @throws
/// moxie::config_error
Model make_moe_feed(const moxie::Scope<Backend>& scope, const Options& options,
                    const moxie::VitConfig& vit);

}  // namespace vmoe
