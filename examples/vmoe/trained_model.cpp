#include "trained_model.hpp"

#include <nlohmann/json.hpp>
#include <system_error>

#include "run_directory.hpp"

namespace vmoe {
namespace {

void repeat_grey(ImageSet& set) {
  std::vector<std::uint8_t> colour;
  colour.reserve(3 * set.pixels.size());
  for (const std::uint8_t value : set.pixels) colour.insert(colour.end(), 3, value);
  set.pixels = std::move(colour);
  set.shape.channels = 3;
}

}  // namespace

std::filesystem::path newest_checkpoint(const std::filesystem::path& path) {
  std::error_code error;  // what cannot be looked at is said when it is read
  if (!std::filesystem::exists(path, error) && !error)
    moxie::throw_io("vmoe: there is no '", path.string(),
                    "', expected a run's folder or a checkpoint file");
  if (!std::filesystem::is_directory(path, error)) return path;
  const RunDirectory run(path);
  const std::vector<std::uint64_t> steps = run.checkpoints();
  if (steps.empty()) moxie::throw_io("vmoe: '", path.string(), "' has no checkpoint yet");
  return run.checkpoint(steps.back());
}

void fit_test_images(const char* who, const CheckpointInfo& info, Dataset& data) {
  if (data.test.shape.channels == 1 && info.image.channels == 3) repeat_grey(data.test);
  const ImageShape& shape = data.test.shape;
  if (shape != info.image || data.classes.size() != info.classes.size())
    moxie::throw_config(who, ": '", data.source, "' has images of ", shape.height, "x", shape.width,
                        "x", shape.channels, " in ", data.classes.size(),
                        " classes, the model expects ", info.image.height, "x", info.image.width,
                        "x", info.image.channels, " in ", info.classes.size());
  for (std::size_t c = 0; c < data.classes.size(); ++c)
    if (data.classes[c] != info.classes[c])
      moxie::throw_config(who, ": class ", c, " of '", data.source, "' is '", data.classes[c],
                          "', the model expects '", info.classes[c], "'");
}

void require_same_network(const char* who, const Options& own, const std::string& of_own,
                          const Options& other, const std::filesystem::path& file) {
  constexpr const char* without_trace[] = {
      "k",          "router",     "gate",         "renormalize",       "combine",
      "epsilon",    "iterations", "plan_at_eval", "fill_zero",         "expert_groups",
      "top_groups", "pooling",    "positions",    "resnet_stem_stride"};
  const nlohmann::json ours = to_json(own), theirs = to_json(other);
  for (const char* name : without_trace)
    if (ours[name] != theirs[name])
      moxie::throw_config(who, ": ", name, " of '", file.string(), "' is ", theirs[name].dump(),
                          ", but ", of_own, " has ", ours[name].dump(),
                          ", expected the same of both models");
}

}  // namespace vmoe
