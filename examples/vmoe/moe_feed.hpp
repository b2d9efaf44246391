#pragma once

#include "model.hpp"

namespace vmoe {

/// The mixture of experts that the options ask for, in place of a block's perceptron.   @throws
/// moxie::config_error
Model make_moe_feed(const moxie::Scope<Backend>& scope, const Options& options,
                    const moxie::VitConfig& vit);

}  // namespace vmoe
