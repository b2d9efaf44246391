#pragma once

#include "model.hpp"
#include "moxie/runtime/moe_config.hpp"

namespace vmoe {

/// The options in the library's words.   @throws moxie::config_error
moxie::MoeConfig moe_config(const Options& options, const moxie::VitConfig& vit);

/// Whether anything there keeps the load of the experts even: a loss, the router itself, its bias.
/// Pairwise Router Consistency does not count.
bool balances(const Options& options, const moxie::MoeConfig& config);

/// The mixture of experts that the options ask for, in place of the perceptron of block `block`.
/// @throws moxie::config_error
Model make_moe_feed(const moxie::Scope<Backend>& scope, const Options& options,
                    const moxie::VitConfig& vit, Index block);

}  // namespace vmoe
