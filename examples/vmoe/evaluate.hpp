#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "moxie/core/view.hpp"

namespace vmoe {

/// Evaluates a checkpoint, or the newest of a run, on the test images of `data` (empty: those it
/// was trained beside). Writes nothing: the run may be training.
/// @throws moxie::error
nlohmann::json evaluate(const std::filesystem::path& checkpoint, const std::string& data,
                        moxie::Index threads);

}  // namespace vmoe
