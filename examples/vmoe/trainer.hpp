#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "options.hpp"

namespace vmoe {

struct TrainRequest {
  Options options;
  std::optional<std::filesystem::path> resume;  ///< the run to go on with
};

/// How a training run ended.
enum class TrainEnd { finished, interrupted };

/// Trains from the beginning or goes on with a run, bit for bit as if it had never stopped; writes metrics, checkpoints,
/// routing and the report. `result` becomes the final line of metrics.jsonl.
/// @throws moxie::error; the last good checkpoint stays
TrainEnd train(const TrainRequest& request, nlohmann::json& result);

/// Evaluates a checkpoint, or the newest of a run, on the test images of `data` (empty: those it was trained beside).
/// @throws moxie::error
nlohmann::json evaluate(const std::filesystem::path& checkpoint, const std::string& data,
                        Index threads);

}  // namespace vmoe
