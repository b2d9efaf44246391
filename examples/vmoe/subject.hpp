#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint_info.hpp"
#include "evaluator.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "moxie/robust/noise_sweep.hpp"
#include "moxie/routing/token_experts.hpp"

namespace vmoe {

struct Checkpoint {
  std::filesystem::path file;
  CheckpointInfo info;
};

/// Those of models that can be looked at side by side; paths are checkpoints, or runs for their
/// newest. `who` is named in errors, here and below.
/// @throws moxie::config_error without a path, for soft experts whose slots several images share, or
/// unless all were made for images of the same shape and classes
std::vector<Checkpoint> read_checkpoints(const char* who,
                                         const std::vector<std::filesystem::path>& paths);

/// Where test images come from: `data`, or if it is empty what the first model was trained beside.
std::string test_data_path(const std::vector<Checkpoint>& checkpoints, const std::string& data);

/// The test images that are looked at, with their numbers.
struct Sample {
  std::vector<std::int32_t> numbers;  ///< among the test images
  ImageSet images;
  std::vector<std::string> classes;
};

/// Draws `wanted` test images by the seed, all if 0 or more than there are.
/// @throws moxie::config_error if they are not of the models' shape and classes, there are none, or
/// `data` is empty and a model was trained beside other images
Sample draw_sample(const char* who, const std::vector<Checkpoint>& checkpoints,
                   const std::string& data, Index wanted, std::uint64_t seed);

/// @throws moxie::config_error unless noise > 0, levels >= 1
void check_sweep(const char* who, const moxie::NoiseSweep& sweep);

/// What a model makes of all images once.
struct Answer {
  std::vector<double> probability;  ///< of the true class
  std::vector<std::int32_t> prediction;
  std::vector<moxie::TokenExperts> layers;  ///< of all images
};

/// One trained model and the images that it is asked about; in evaluation mode, each image in a
/// group of its own: none takes the place of another.
class Subject {
 public:
  /// Makes the inputs of an image; threads call it.
  using Write = std::function<void(Index image, float* inputs)>;

  /// Both must outlive the object.
  Subject(const Checkpoint& checkpoint, const Sample& sample, Index threads);

  const Options& options() const { return options_; }
  const moxie::VitConfig& vit() const { return plan_.vit; }
  const CheckpointInfo& info() const { return info_; }
  const Model& model() const { return model_; }
  /// Most images of a pass.
  Index batch() const { return batch_; }

  Answer answer(const Write& write);
  /// Of the images at a level of a sweep.
  Answer answer(const moxie::NoiseSweep& sweep, Index level);
  /// Of other pixels in their place, [images, height * width * channels] from 0 to 1.
  Answer answer(const std::vector<float>& pixels);

 private:
  /// Inputs of one image; pixel(v): value v of it, from 0 to 1.
  template <class F>
  void write_inputs(const F& pixel, float* inputs) const;
  void add_scores(const std::vector<float>& scores, Index row, std::int32_t label,
                  Answer& out) const;

  const CheckpointInfo& info_;
  const Sample& sample_;
  Options options_;
  ModelPlan plan_;
  moxie::ThreadPool pool_;
  Backend backend_;
  Model model_;
  Index batch_;
  Evaluator evaluator_;
  std::vector<float> inputs_;
};

}  // namespace vmoe
