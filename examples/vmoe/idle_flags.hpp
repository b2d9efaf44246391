#pragma once

#include "options.hpp"

namespace vmoe {

/// Flags that have no effect beside others are mistakes. `options`: with the defaults of the router
/// (take_router_defaults); `flags`: names of those that were typed, for a configuration file names
/// all options. What depends on the images, as --held-out, is not seen here; and --dense takes the
/// flags of the model whose twin it is.
/// @throws moxie::config_error naming the flag and the reason
void refuse_idle_flags(const Options& options, const OptionNames& flags);

}  // namespace vmoe
