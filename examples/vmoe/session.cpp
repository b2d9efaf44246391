#include "session.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "moxie/core/error.hpp"
#include "robust_options.hpp"
#include "trained_model.hpp"

namespace vmoe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::optional<RunWriter> open_directory(const TrainRequest& request) {
  if (request.resume) return RunWriter::resume(*request.resume);
  check(request.options);
  RunWriter::refuse_used(request.options.out);
  for (const std::string& start : {request.options.warm_standard, request.options.warm_robust})
    if (!start.empty()) (void)newest_checkpoint(start);  // before data are read and models made
  return std::nullopt;
}

/// Options of a resumed run: the run's own. Flags may repeat them, or change what has no influence
/// on the result.
Options resumed_options(const TrainRequest& request, const RunDirectory& run) {
  Options own;
  apply_config_file(run.config().string(), own);
  require_same_run(own, request.options, "vmoe train --resume", &request.given);
  if (request.given.contains("out") &&
      fs::weakly_canonical(request.options.out) != fs::weakly_canonical(run.path()))
    moxie::throw_config("vmoe train --resume: out is '", request.options.out,
                        "', but the run is in '", run.path().string(), "' and stays there");
  const json wanted = to_json(request.options);
  visit_options(own, [&](const char*, const char* name, auto& member, const char*) {
    if (request.given.contains(name)) wanted[name].get_to(member);
  });
  own.out = run.path().string();
  return own;
}

Options options_of(const TrainRequest& request, const std::optional<RunWriter>& directory) {
  Options options = directory ? resumed_options(request, *directory) : request.options;
  check(options);
  return options;
}

}  // namespace

int thread_count(Index wanted) {
  if (wanted > 0) return static_cast<int>(wanted);
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

Session::Session(const TrainRequest& request)
    : directory(open_directory(request)),
      options(options_of(request, directory)),
      data(load_dataset(options.data, {.seed = options.seed, .held_out = options.held_out})),
      data_fingerprint(fingerprint(data)),
      normalization(measure_normalization(data.train)),
      plan(plan_model(options, data.train.shape, classes())),
      pool(thread_count(options.threads)),
      backend(make_backend(pool, options)),
      dual(is_dual(options) ? std::optional(make_dual(backend, options, plan)) : std::nullopt),
      model(dual ? Model(*dual) : make_model(backend, options, plan)) {}

json Session::config() const {
  return {{"options", to_json(options)},
          {"preset", options.preset},
          {"backend", backend_name},
          {"seed", options.seed},
          {"data",
           {{"source", data.source},
            {"format", data.format},
            {"classes", data.classes},
            {"train", data.train.count},
            {"test", data.test.count},
            {"held_out", data.held_out},
            {"height", data.train.shape.height},
            {"width", data.train.shape.width},
            {"channels", data.train.shape.channels}}},
          {"model", describe(options, plan, model)},
          {"train",
           {{"epochs", options.epochs},
            {"batch", options.batch},
            {"optimizer", options.optimizer},
            {"learning_rate", options.learning_rate},
            {"schedule", options.schedule},
            {"weight_decay", options.weight_decay},
            {"label_smoothing", options.label_smoothing},
            {"mixup", options.mixup}}}};
}

}  // namespace vmoe
