#include "evaluate.hpp"

#include <nlohmann/json.hpp>
#include <vector>

#include "checkpoint_info.hpp"
#include "evaluator.hpp"
#include "json_number.hpp"
#include "layer_figures.hpp"
#include "run_directory.hpp"
#include "session.hpp"

namespace vmoe {
namespace {

std::filesystem::path newest_checkpoint(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return path;
  const RunDirectory run(path);
  const std::vector<std::uint64_t> steps = run.checkpoints();
  if (steps.empty()) moxie::throw_io("vmoe: '", path.string(), "' has no checkpoint yet");
  return run.checkpoint(steps.back());
}

/// A model of colour images can look at grey ones.
void repeat_grey(ImageSet& set) {
  std::vector<std::uint8_t> colour;
  colour.reserve(3 * set.pixels.size());
  for (const std::uint8_t value : set.pixels) colour.insert(colour.end(), 3, value);
  set.pixels = std::move(colour);
  set.shape.channels = 3;
}

void require_fit(const Dataset& data, const CheckpointInfo& info) {
  const ImageShape& shape = data.test.shape;
  if (shape != info.image || data.classes.size() != info.classes.size())
    moxie::throw_config("vmoe eval: '", data.source, "' has images of ", shape.height, "x",
                        shape.width, "x", shape.channels, " in ", data.classes.size(),
                        " classes, the model expects ", info.image.height, "x", info.image.width,
                        "x", info.image.channels, " in ", info.classes.size());
  for (std::size_t c = 0; c < data.classes.size(); ++c)
    if (data.classes[c] != info.classes[c])
      moxie::throw_config("vmoe eval: class ", c, " of '", data.source, "' is '", data.classes[c],
                          "', the model expects '", info.classes[c], "'");
}

}  // namespace

nlohmann::json evaluate(const std::filesystem::path& checkpoint, const std::string& data_path,
                        Index threads, const std::string& routes) {
  const std::filesystem::path file = newest_checkpoint(checkpoint);
  const CheckpointInfo info = CheckpointInfo::read(file);
  Options options = info.options;
  if (!data_path.empty()) options.data = data_path;
  Dataset data = load_dataset(options.data, {.seed = options.seed, .held_out = options.held_out});
  if (data.test.shape.channels == 1 && info.image.channels == 3) repeat_grey(data.test);
  require_fit(data, info);
  const ModelPlan plan = plan_model(options, info.image, static_cast<Index>(info.classes.size()));
  moxie::ThreadPool pool(thread_count(threads));
  Backend backend(pool);
  const Model model = make_model(backend, options, plan);
  moxie::load_checkpoint(file, model.parameters());
  Evaluator evaluator(model, plan, options.loss == "sigmoid", options.group_images, options.batch);
  Evaluation e;
  if (routes.empty()) {
    evaluator.run(data.test, info.normalization, e);
  } else {
    if (model.moe_layers() == 0)
      moxie::throw_config("vmoe eval: --routes is '", routes, "', but the model has no experts");
    std::vector<moxie::HostRoutes<float>> recorded;
    evaluator.run(data.test, info.normalization, e, &recorded);
    moxie::save_routes(routes, recorded);
  }
  return {{"checkpoint", file.string()},       {"data", options.data},
          {"images", data.test.count},         {"step", info.step},
          {"loss", json_number(e.loss)},       {"accuracy", e.accuracy},
          {"dropped", dropped_share(e.layers)}, {"layers", layer_figures(e.layers, plan.vit.moe_blocks)}};
}

}  // namespace vmoe
