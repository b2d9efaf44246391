#pragma once

#include <filesystem>

#include "checkpoint_info.hpp"

namespace vmoe {

/// A checkpoint's own path, or the newest checkpoint of a run's folder.
/// @throws moxie::io_error if the run has none
std::filesystem::path newest_checkpoint(const std::filesystem::path& path);

/// Makes test images into those that a trained model takes: grey ones become colour where it looks at
/// colour. `who` is named in errors.
/// @throws moxie::config_error if size or classes are not the model's
void fit_test_images(const char* who, const CheckpointInfo& info, Dataset& data);

}  // namespace vmoe
