#include "upcycle.hpp"

#include <nlohmann/json.hpp>

#include "checkpoint_info.hpp"
#include "idle_flags.hpp"
#include "moxie/io/upcycle.hpp"
#include "router_defaults.hpp"
#include "session.hpp"
#include "train_step.hpp"
#include "trained_model.hpp"

namespace vmoe {
namespace {

using nlohmann::json;

/// The dense run's options, with what makes a mixture of it.
Options mixture_options(const UpcycleRequest& request, const Options& dense,
                        const std::string& file) {
  constexpr const char* who = "vmoe upcycle";
  if (dense.model != "vit" || !(dense.dense || dense.moe == "none"))
    moxie::throw_config(
        who, ": '", file,
        "' is not of a dense vision transformer; expected one trained with --moe none, or --dense");
  Options o = dense;
  o.dense = false;
  const json wanted = to_json(request.options);
  visit_options(o, [&](const char*, const char* name, auto& member, const char*) {
    if (request.given.contains(name)) wanted[name].get_to(member);
  });
  if (o.dense) moxie::throw_config(who, ": dense is true, expected a model with experts");
  if (o.moe == "none" && !request.given.contains("moe")) o.moe = "preset";
  if (o.moe == "none") moxie::throw_config(who, ": moe is 'none', expected blocks with experts");
  take_router_defaults(o, request.given);
  const auto given = [&](const char* name) { return request.given.contains(name); };
  if (family_of(o) == RouterFamily::token_choice) {
    // weights of hash and uniform are 1 / k
    if (!given("renormalize") && o.router != "hash" && o.router != "uniform") o.renormalize = true;
    if (!given("capacity") && !given("capacity_factor") && !given("eval_capacity_factor") &&
        !given("slots")) {
      o.capacity = "dropless";
      o.slots = 0;
    }
  }
  refuse_idle_flags(o, request.given);
  return o;
}

}  // namespace

json upcycle_run(const UpcycleRequest& request) {
  const std::filesystem::path file = newest_checkpoint(request.dense);
  const CheckpointInfo dense = CheckpointInfo::read(file);
  Session session({.options = mixture_options(request, dense.options, file.string()),
                   .given = {},
                   .resume = {}});
  if (session.data_fingerprint != dense.data_fingerprint && !request.given.contains("data"))
    moxie::throw_io("vmoe: '", session.options.data, "' is not the data that '", file.string(),
                    "' was trained on (their fingerprints differ)");
  fit_test_images("vmoe upcycle", dense, session.data);
  const moxie::UpcycleReport report =
      moxie::upcycle(file, session.model.parameters(),
                     {.noise = request.expert_noise, .seed = session.options.seed});

  const Options& o = session.options;
  const auto step = make_train_step(session, (o.prc > 0 ? 2 : 1) * o.batch);
  const RunWriter run = RunWriter::create(o.out, session.config());
  const CheckpointInfo info{.options = o,
                            .normalization = session.normalization,
                            .classes = session.data.classes,
                            .image = session.data.train.shape,
                            .step = 0,
                            .data_fingerprint = session.data_fingerprint,
                            .train_seconds = 0,
                            .window = {}};
  const std::filesystem::path checkpoint = run.checkpoint(0);
  step->save(checkpoint, info.to_metadata());
  return {{"dense", file.string()},     {"checkpoint", checkpoint.string()},
          {"copied", report.copied},    {"repeated", report.repeated},
          {"initialized", report.kept}, {"parameters", session.model.parameters().size()}};
}

}  // namespace vmoe
