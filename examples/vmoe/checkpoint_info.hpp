#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/normalization.hpp"
#include "metrics_window.hpp"
#include "moxie/io/checkpoint.hpp"
#include "options.hpp"

namespace vmoe {

/// What a checkpoint says besides its tensors: enough to build the model again and to go on.
struct CheckpointInfo {
  Options options;
  Normalization normalization;
  std::vector<std::string> classes;
  ImageShape image;
  std::uint64_t step = 0;
  std::uint64_t data_fingerprint = 0;
  double train_seconds = 0;
  MetricsWindow window;

  moxie::Metadata to_metadata() const;
  /// @throws moxie::io_error if `metadata` of `file` is not that of a vmoe checkpoint
  static CheckpointInfo from_metadata(const moxie::Metadata& metadata, const std::string& file);
  /// Without reading the tensors.   @throws moxie::io_error
  static CheckpointInfo read(const std::filesystem::path& file);
};

}  // namespace vmoe
