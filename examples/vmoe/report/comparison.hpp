#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace vmoe {

/// One self-contained page that opens offline, of the figures of `compare_models`: a slider moves
/// the noise, and with it the image, the experts of its patches by model, and what has changed.
std::string comparison_page(const nlohmann::json& figures);

}  // namespace vmoe
