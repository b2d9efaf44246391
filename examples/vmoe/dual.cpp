#include "dual.hpp"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "certify.hpp"
#include "data/batch.hpp"
#include "image_certificate.hpp"
#include "image_moe.hpp"
#include "mirror.hpp"
#include "moxie/robust/alpha_sweep.hpp"
#include "moxie/train/warm_start.hpp"
#include "pixel_model.hpp"
#include "robust_options.hpp"
#include "run_directory.hpp"
#include "session.hpp"
#include "subject.hpp"
#include "trained_model.hpp"

namespace vmoe {
namespace {

constexpr const char* dual_command = "vmoe dual";
constexpr Index images_at_a_time = 64;

using PixelDual = moxie::DualModel<PixelModel, PixelModel>;
static_assert(moxie::Attack<moxie::Pgd, moxie::LayerTarget<PixelDual>>);

/// The option dual_space of what is swept. Probabilities have the classes of their logarithms.
std::string space_of(const std::string& asked, const Options& options) {
  if (asked.empty()) return is_dual(options) ? options.dual_space : "logit";
  if (asked == "logit" || asked == "log_probability") return asked;
  if (asked == "probability") return "log_probability";
  moxie::throw_config(dual_command, ": space is '", asked,
                      "', expected one of: logit, probability, log_probability");
}

/// What the dual model is built with.
Options dual_options(const std::vector<Checkpoint>& checkpoints, const DualRequest& request) {
  Options options = checkpoints.back().info.options;
  if (checkpoints.size() == 1 && !is_dual(options))
    moxie::throw_config(dual_command, ": '", checkpoints[0].file.string(),
                        "' is one model, expected a dual model or the path of a robust one beside");
  for (const Checkpoint& c : checkpoints)
    if (c.info.options.model != "image_moe" || (checkpoints.size() > 1 && is_dual(c.info.options)))
      moxie::throw_config(dual_command, ": '", c.file.string(),
                          "' is no mixture of whole networks (--model image_moe)");
  options.dual_space = space_of(request.space, options);
  // A certificate's scores are as good as floats are.
  if (!request.radii.empty()) options.tf32 = false;
  if (checkpoints.size() > 1) {
    if (checkpoints[0].info.normalization != checkpoints[1].info.normalization)
      moxie::throw_config(dual_command,
                          ": the two models normalise images differently, expected models "
                          "that were trained on the same images");
    require_same_network(dual_command, options,
                         moxie::detail::message("'", checkpoints[1].file.string(), "'"),
                         checkpoints[0].info.options, checkpoints[0].file);
    options.objective = "jtdmoe";
    options.alpha = request.alpha;
    options.warm_standard = options.warm_robust = "";
  }
  return options;
}

void load(Backend& backend, const std::vector<Checkpoint>& checkpoints, Index classes,
          const Dual& dual) {
  if (checkpoints.size() == 1) {
    moxie::load_checkpoint(checkpoints[0].file, dual.parameters());
    return;
  }
  const char* const scopes[] = {"Standard", "Robust"};
  for (std::size_t i = 0; i < 2; ++i) {
    const CheckpointInfo& info = checkpoints[i].info;
    const Model alone =
        make_model(backend, info.options, plan_model(info.options, info.image, classes));
    moxie::load_checkpoint(checkpoints[i].file, alone.parameters());
    moxie::train::warm_start(alone.parameters(), dual.parameters(), scopes[i]);
  }
}

void save(const DualRequest& request, const Checkpoint& robust, const Options& options,
          const Dual& dual) {
  if (request.checkpoint.empty()) return;
  CheckpointInfo info = robust.info;
  info.options = options;
  moxie::save_checkpoint(request.checkpoint, dual.parameters(), info.to_metadata());
}

void add_certificates(const ImageCertificates& certificates, moxie::DualOptions options,
                      const std::vector<double>& radii, nlohmann::json& figures) {
  figures.update(certificates.figures());
  for (nlohmann::json& point : figures["points"]) {
    options.alpha = point.at("alpha").get<double>();
    point["radii"] = certificates.shares(radii, options);
  }
}

}  // namespace

nlohmann::json sweep_dual(const DualRequest& request) {
  check_radii(dual_command, request.radii);
  std::vector<std::filesystem::path> paths{request.standard};
  if (!request.robust.empty()) paths.push_back(request.robust);
  const std::vector<Checkpoint> checkpoints = read_checkpoints(dual_command, paths);
  const Options options = dual_options(checkpoints, request);
  const Sample sample =
      draw_sample(dual_command, checkpoints, request.data, request.images, request.seed);
  const CheckpointInfo& info = checkpoints.back().info;
  const auto classes = static_cast<Index>(info.classes.size());
  moxie::ThreadPool pool(thread_count(request.threads));
  Backend backend = make_backend(pool, options);
  const ModelPlan plan = plan_model(options, info.image, classes);
  const Dual parts = make_dual(backend, options, plan);
  load(backend, checkpoints, classes, parts);
  save(request, checkpoints.back(), options, parts);

  const auto pixels = [&](const SharedModel& part) {
    return PixelModel(part.model(), info.normalization, info.image);
  };
  PixelDual dual(pixels(parts.standard()), pixels(parts.robust()), parts.options());
  moxie::AlphaSweep<PixelDual, moxie::Pgd> sweep(dual, request.attack, request.alphas,
                                                 images_at_a_time);
  const ImageSet& images = sample.images;
  const std::vector<double> zeros(to_size(images.shape.channels), 0), ones(zeros.size(), 1);
  const Batches batches(images, classes, {zeros, ones}, {.batch_size = images_at_a_time},
                        Batches::Use::evaluate);
  const Batches::Epoch epoch = batches.epoch(0);
  Mirror<float> x(backend, images_at_a_time * batches.row_values());
  Mirror<std::int32_t> y(backend, images_at_a_time);
  for (Index b = 0; b < batches.per_epoch(); ++b) {
    const Index n = batches.rows(b);
    batches.fill(epoch, b, {.images = x.host, .labels = y.host});
    x.send(n * batches.row_values());
    y.send(n);
    sweep.add({.x = {x.data(), n, batches.row_values()},
               .y = {y.data(), n},
               .seed = request.seed,
               .first_image = b * images_at_a_time});
  }
  if (!request.csv.empty()) write_text(request.csv, moxie::to_csv(sweep.points()));
  nlohmann::json files = nlohmann::json::array();
  for (const Checkpoint& c : checkpoints) files.push_back(c.file.string());
  nlohmann::json out = {{"checkpoints", files},
                        {"images", images.count},
                        {"seed", request.seed},
                        {"space", options.dual_space},
                        {"eps", request.attack.threat.eps},
                        {"steps", request.attack.steps},
                        {"points", nlohmann::json::parse(moxie::to_json(sweep.points()))}};
  if (!request.radii.empty()) {
    CheckpointInfo own = info;
    own.options = options;
    add_certificates(ImageCertificates(parts, own, plan, images), parts.options(), request.radii,
                     out);
  }
  return out;
}

std::string dual_text(const nlohmann::json& figures) {
  std::string out = "alpha     SA %     RA %\n";
  for (const auto& point : figures.at("points")) {
    char line[64];
    std::snprintf(line, sizeof line, "%5.3g %8.2f %8.2f\n", point.at("alpha").get<double>(),
                  point.at("sa").get<double>(), point.at("ra").get<double>());
    out += line;
  }
  if (!figures.contains("certificate")) return out;
  out.append("\ncertificate: ").append(figures.at("certificate").get<std::string>()).append("\n");
  for (const auto& reason : figures.at("reasons"))
    out.append("  ").append(reason.get<std::string>()).append("\n");
  if (!figures.at("reasons").empty()) return out;
  for (const auto& point : figures.at("points"))
    out.append(moxie::detail::message("\nalpha ", point.at("alpha").get<double>(), "\n"))
        .append(shares_text(point.at("radii")));
  return out;
}

}  // namespace vmoe
