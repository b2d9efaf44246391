#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "options.hpp"

namespace vmoe {

struct TrainRequest {
  Options options;
  OptionNames given;  ///< those that were set; the others have their defaults
  std::optional<std::filesystem::path> resume;  ///< the run to go on with
};

/// What computes in this program, as --backend has it: "cpu".
const char* program_backend();

/// How a training run ended.
enum class TrainEnd { finished, interrupted };

/// Trains from the beginning or goes on with a run, bit for bit as if it had never stopped; writes
/// metrics, checkpoints, routing and the report. `result` becomes the final line of metrics.jsonl.
/// @throws moxie::error; the last good checkpoint stays
TrainEnd train(const TrainRequest& request, nlohmann::json& result);

}  // namespace vmoe
