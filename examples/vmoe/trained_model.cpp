#include "trained_model.hpp"

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
  if (!std::filesystem::is_directory(path)) return path;
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

}  // namespace vmoe
