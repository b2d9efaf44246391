#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "moxie/core/view.hpp"

namespace vmoe {

/// Evaluates a checkpoint, or the newest of a run, on the test images of `data` (empty: those it
/// was trained beside). Writes nothing of the run, which may be training; `routes`, unless empty, is
/// the file for the routes of all test images (moxie::save_routes).
/// @throws moxie::error
nlohmann::json evaluate(const std::filesystem::path& checkpoint, const std::string& data,
                        moxie::Index threads, const std::string& routes);

}  // namespace vmoe
