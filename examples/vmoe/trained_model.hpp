#pragma once

#include <filesystem>

#include "checkpoint_info.hpp"

namespace vmoe {

/// A checkpoint's own path, or the newest checkpoint of a run's folder.
/// @throws moxie::io_error if there is nothing of that path, or the run has none
std::filesystem::path newest_checkpoint(const std::filesystem::path& path);

/// Makes test images into those that a trained model takes: grey ones become colour where it looks at
/// colour. `who` is named in errors.
/// @throws moxie::config_error if size or classes are not the model's
void fit_test_images(const char* who, const CheckpointInfo& info, Dataset& data);

/// Whether tensors of a model in `file` mean in a model of other options what they meant where they
/// were trained: options that no shape shows are the same. `of_own` says whose the options are.
/// @throws moxie::config_error naming the option and both values
void require_same_network(const char* who, const Options& own, const std::string& of_own,
                          const Options& other, const std::filesystem::path& file);

}  // namespace vmoe
