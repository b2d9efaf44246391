#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "data/dataset.hpp"
#include "data/normalization.hpp"
#include "image_moe.hpp"
#include "model.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "run_directory.hpp"
#include "trainer.hpp"

namespace vmoe {

/// Everything of a run that does not depend on the optimizer: options, images, model. Making one
/// writes nothing.
struct Session {
  /// @throws moxie::error
  explicit Session(const TrainRequest& request);

  std::optional<RunWriter> directory;  ///< of the run that goes on; a new one is made later
  Options options;
  Dataset data;
  std::uint64_t data_fingerprint;
  Normalization normalization;
  ModelPlan plan;
  moxie::ThreadPool pool;
  Backend backend;
  std::optional<Dual> dual;  ///< the same model with its parts, if it is one
  Model model;

  Index classes() const { return static_cast<Index>(data.classes.size()); }
  /// config.json: the options, and what was found out about data and model.
  nlohmann::json config() const;
};

/// Worker threads for the option: 0 means all cores.
int thread_count(Index wanted);

}  // namespace vmoe
