#pragma once

#include <string>
#include <string_view>

#include "runtime/made_layers.hpp"

namespace moxie::test {

/// How a router in which experts choose, or that mixes, refuses a part that is for token choice.
inline std::string refusal(std::string_view router, std::string_view what, std::string_view value,
                           std::string_view expected) {
  const std::string why = router == "soft" ? "its slots are weighted means of all tokens"
                                           : "its experts choose tokens and are always full";
  return "moxie::make_layer: router '" + std::string(router) + "' cannot use " + std::string(what) +
         " '" + std::string(value) + "' (" + why + "): expected " + std::string(expected);
}

/// What make_layer says to the smallest configuration of `router` after `change`; "no error" if it
/// makes it.
template <class F>
std::string refused(const F& change, std::string_view router = "softmax_token_choice") {
  CpuBackend<double> backend;
  MoeConfig c = small_config(router);
  change(c);
  return message_of<config_error>([&] { (void)made_layer(backend, c); });
}

}  // namespace moxie::test
