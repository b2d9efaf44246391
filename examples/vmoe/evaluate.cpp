#include "evaluate.hpp"

#include <nlohmann/json.hpp>
#include <vector>

#include "evaluator.hpp"
#include "json_number.hpp"
#include "layer_figures.hpp"
#include "session.hpp"
#include "trained_model.hpp"

namespace vmoe {

nlohmann::json evaluate(const std::filesystem::path& checkpoint, const std::string& data_path,
                        Index threads, const std::string& routes) {
  const std::filesystem::path file = newest_checkpoint(checkpoint);
  const CheckpointInfo info = CheckpointInfo::read(file);
  Options options = info.options;
  if (!data_path.empty()) options.data = data_path;
  Dataset data = load_dataset(options.data, {.seed = options.seed, .held_out = options.held_out});
  fit_test_images("vmoe eval", info, data);
  const ModelPlan plan = plan_model(options, info.image, static_cast<Index>(info.classes.size()));
  moxie::ThreadPool pool(thread_count(threads));
  Backend backend = make_backend(pool, options);
  const Model model = make_model(backend, options, plan);
  moxie::load_checkpoint(file, model.parameters());
  Evaluator evaluator(model, pool, plan, options.loss == "sigmoid", options.group_images,
                      options.batch);
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
  return {{"checkpoint", file.string()},
          {"data", options.data},
          {"images", data.test.count},
          {"step", info.step},
          {"loss", json_number(e.loss)},
          {"accuracy", e.accuracy},
          {"dropped", dropped_share(e.layers)},
          {"layers", layer_figures(e.layers, plan.vit.moe_blocks)}};
}

}  // namespace vmoe
