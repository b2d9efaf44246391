#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "options.hpp"

namespace vmoe {

struct UpcycleRequest {
  std::filesystem::path dense;  ///< a checkpoint, or a run's folder for its newest
  Options options;              ///< what `given` names
  OptionNames given;  ///< the others are the dense model's own, except those that a mixture adds
  double expert_noise = 0;  ///< moxie::UpcycleOptions::noise
};

/// Makes a run whose model starts as a dense one: its parameters, with the perceptrons of some blocks
/// repeated as experts. With token choice, unless told otherwise, weights of a token sum to 1 and nothing is dropped, so
/// that at step 0 it gives what the dense model gives. The run has one checkpoint, of step 0, and
/// `vmoe train --resume` goes on from there.
/// @returns what was copied, repeated and left as it was initialized
/// @throws moxie::config_error for options that make no sense or a model that is not dense;
/// moxie::io_error
nlohmann::json upcycle_run(const UpcycleRequest& request);

}  // namespace vmoe
