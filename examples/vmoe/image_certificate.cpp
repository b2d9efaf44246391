#include "image_certificate.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/batch.hpp"
#include "mirror.hpp"
#include "moxie/io/checkpoint.hpp"
#include "moxie/layer/tape.hpp"
#include "robust_options.hpp"

namespace vmoe {
namespace {

using moxie::Certificate;
using moxie::MixtureConstants;
using nlohmann::json;

class ReadLogits final : public moxie::RoutingVisitor<Backend> {
 public:
  explicit ReadLogits(Backend& backend) : backend_(backend) {}
  void sparse(const moxie::SparseRouting<Backend>& r) override {
    logits = to_host(backend_, r.logits);
  }
  std::vector<float> logits;  // [images, experts]

 private:
  Backend& backend_;
};

Index best_of(const std::vector<double>& v) {
  return std::max_element(v.begin(), v.end()) - v.begin();
}

std::vector<double> softmax_of(std::vector<double> z) {
  const double peak = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double& v : z) sum += v = std::exp(v - peak);
  for (double& v : z) v /= sum;
  return z;
}

ExpertView view_of(const MixtureBounds& bounds, bool renormalize, std::vector<double> scores,
                   const std::vector<double>& logits) {
  ExpertView out;
  const Index best = best_of(logits);
  out.route = moxie::route_radius(logits, bounds.router.view(), 1);
  out.gate = renormalize ? 1 : softmax_of(logits)[to_size(best)];
  out.expert = bounds.experts[to_size(best)];
  const double of_gate = renormalize ? 0 : moxie::softmax_coordinate({bounds.logits}).value;
  for (std::size_t k = 0; k < scores.size(); ++k)
    out.weighted.push_back(moxie::gated_slope(scores[k], of_gate, out.expert[k]));
  out.scores = std::move(scores);
  return out;
}

/// One part as certificates of mixtures see it: outputs that move so fast, whatever the route does
/// elsewhere.
struct MixturePart {
  std::vector<double> outputs, slopes;
  double route;

  MixtureConstants constants() const {
    static constexpr double one = 1, none = 0;
    return {.gate = {&one, 1},
            .gate_lip = {&none, 1},
            .expert_lip = {slopes.data(), 1, static_cast<Index>(slopes.size())}};
  }
};

/// The expert alone: its class is that of the mixture, whatever its weight.
MixturePart of_expert(const ExpertView& v) { return {v.scores, v.expert, v.route}; }

MixturePart of_mixture(const ExpertView& v) {
  MixturePart out{v.scores, v.weighted, v.route};
  for (double& s : out.outputs) s *= v.gate;
  return out;
}

MixturePart of_probabilities(const ExpertView& v) {
  const MixturePart of = of_mixture(v);
  const double fastest = *std::max_element(of.slopes.begin(), of.slopes.end());
  const double slope = moxie::softmax_coordinate({fastest}).value;
  return {softmax_of(of.outputs), std::vector<double>(of.slopes.size(), slope), v.route};
}

/// What is known of one image.
struct ImageRadii {
  Certificate sound{}, robust_alone{}, pair{}, published{};
  double of_any_route = 0;  // what the sound radius would be if the routes could not change
};

ImageRadii radii_of_one(const ExpertView& view, Index label) {
  const MixturePart part = of_expert(view);
  if (best_of(part.outputs) != label) return {};
  const auto within = [&](const Certificate& c) { return moxie::within_route(c, part.route); };
  const Certificate sound = moxie::certify_mixture(part.outputs, label, part.constants());
  return {.sound = within(sound),
          .published = within(moxie::published_radius(part.outputs, label, part.constants())),
          .of_any_route = sound.radius};
}

ImageRadii radii_of_dual(const ExpertView& standard, const ExpertView& robust, Index label,
                         const moxie::DualOptions& dual) {
  const bool scores = dual.space == moxie::DualSpace::logit;
  const MixturePart s = scores ? of_mixture(standard) : of_probabilities(standard);
  const MixturePart r = scores ? of_mixture(robust) : of_probabilities(robust);
  std::vector<double> mixed;
  for (std::size_t k = 0; k < s.outputs.size(); ++k)
    mixed.push_back((1 - dual.alpha) * s.outputs[k] + dual.alpha * r.outputs[k]);
  if (best_of(mixed) != label) return {};
  ImageRadii out;
  // A weight of 0 leaves a part without influence, wherever its routes go
  const double pair_route =
      std::fmin(dual.alpha < 1 ? s.route : r.route, dual.alpha > 0 ? r.route : s.route);
  const Certificate pair =
      moxie::certify_dual_pair(mixed, label, dual.alpha, s.constants(), r.constants());
  out.sound = out.pair = moxie::within_route(pair, pair_route);
  out.of_any_route = pair.radius;
  if (scores) return out;
  const auto within = [&](const Certificate& c) { return moxie::within_route(c, r.route); };
  const Certificate alone = moxie::certify_dual(r.outputs, label, dual.alpha, r.constants());
  if (alone.applicable) out.of_any_route = std::fmax(out.of_any_route, alone.radius);
  out.robust_alone = within(alone);
  out.published = within(moxie::published_dual_radius(r.outputs, label, dual.alpha, r.constants()));
  if (out.robust_alone.applicable && out.robust_alone.radius > out.sound.radius)
    out.sound = out.robust_alone;
  return out;
}

const char* label_of(moxie::Soundness s) {
  if (s == moxie::Soundness::formal) return "formal";
  return s == moxie::Soundness::estimate ? "estimate" : "diagnostic";
}

/// The share of images with this radius or more; null without a label: not applicable.
json share_of(const std::vector<ImageRadii>& all, Certificate ImageRadii::*which, double radius,
              std::optional<moxie::Soundness> label) {
  if (!label) return {{"certified", nullptr}};
  double count = 0;
  for (const ImageRadii& of : all) {
    const Certificate& c = of.*which;
    count += c.applicable && c.radius >= radius ? 1 : 0;
  }
  return {{"certified", count / static_cast<double>(all.size())}, {"label", label_of(*label)}};
}

json sound_share(const std::vector<ImageRadii>& all, double radius) {
  json out = share_of(all, &ImageRadii::sound, radius, moxie::Soundness::formal);
  double limited = 0;
  for (const ImageRadii& of : all)
    limited += of.sound.radius < radius && of.of_any_route >= radius ? 1 : 0;
  out["linf"] = radius;
  out["limited_by_route"] = limited / static_cast<double>(all.size());
  return out;
}

json nothing_at(double radius) {
  return {{"linf", radius}, {"certified", nullptr}, {"limited_by_route", nullptr}};
}

}  // namespace

ImageCertificates::ImageCertificates(const Model& model, const CheckpointInfo& info,
                                     const ModelPlan& plan, const ImageSet& images) {
  add(model, "", info, plan, images);
}

ImageCertificates::ImageCertificates(const Dual& dual, const CheckpointInfo& info,
                                     const ModelPlan& plan, const ImageSet& images) {
  add(dual.standard().model(), "Standard/", info, plan, images);
  add(dual.robust().model(), "Robust/", info, plan, images);
}

void ImageCertificates::add(const Model& part, const std::string& at, const CheckpointInfo& info,
                            const ModelPlan& plan, const ImageSet& images) {
  const Options& o = info.options;
  bounds_.push_back(mixture_bounds(part, at, info, plan));
  const MixtureBounds& bounds = bounds_.back();
  reasons_.clear();
  const auto refuse = [&](bool so, const char* reason) {
    if (so) reasons_.emplace_back(reason);
  };
  refuse(!std::all_of(bounds_.begin(), bounds_.end(), [](const auto& b) { return b.bounded(); }),
         "experts with attention or norms: they have no finite Lipschitz constant here");
  refuse(o.k != 1, "scores of several experts are added, and have no bound that is known");
  refuse(o.router != "softmax_token_choice" || o.gate != "linear" || o.bias_rate > 0,
         "the route-stable radius is known for a linear router that takes the largest logit");
  if (!applies()) return;

  constexpr Index at_a_time = 64;
  const Index classes = plan.vit.classes, experts = bounds.router.cols;
  const Batches batches(images, classes, info.normalization,
                        {.batch_size = at_a_time, .model_channels = plan.vit.channels},
                        Batches::Use::evaluate);
  const Batches::Epoch epoch = batches.epoch(0);
  Backend& backend = part.parameters().backend();
  Mirror<float> x(backend, at_a_time * part.input_width()), z(backend, at_a_time * classes);
  std::vector<std::int32_t> y(to_size(at_a_time));
  auto tape = moxie::make_tape(part, at_a_time, moxie::Gradients::none);
  const std::vector<moxie::Routes<Backend>> best{
      {.weights = moxie::Routes<Backend>::Weights::unit, .rank = 0}};
  std::vector<ExpertView>& views = views_.emplace_back();
  labels_.clear();
  for (Index b = 0; b < batches.per_epoch(); ++b) {
    const Index n = batches.rows(b);
    batches.fill(epoch, b, {.images = x.host, .labels = y});
    x.send(n * part.input_width());
    const moxie::Pass<Backend> pass{.mode = moxie::Mode::eval, .gradients = moxie::Gradients::none};
    part.forward({x.data(), n, part.input_width()}, {z.data(), n, classes}, tape, pass.with(best));
    z.receive(n * classes);
    ReadLogits read(backend);
    part.visit_routing(tape, read);
    for (Index i = 0; i < n; ++i) {
      const float* score = z.host.data() + i * classes;
      const float* logit = read.logits.data() + i * experts;
      views.push_back(
          view_of(bounds, o.renormalize, {score, score + classes}, {logit, logit + experts}));
      labels_.push_back(y[to_size(i)]);
    }
  }
}

json ImageCertificates::figures() const {
  json out = {{"certificate", applies() ? "sound" : "not_applicable"},
              {"reasons", reasons_},
              {"layers", json::array()}};
  for (const MixtureBounds& b : bounds_)
    out["layers"].push_back(to_json(b, static_cast<Index>(out["layers"].size())));
  if (applies()) out["images"] = labels_.size();
  return out;
}

json ImageCertificates::shares(const std::vector<double>& radii) const {
  json out = json::array();
  std::vector<ImageRadii> all;
  for (std::size_t i = 0; applies() && i < labels_.size(); ++i)
    all.push_back(radii_of_one(views_[0][i], labels_[i]));
  for (const double r : radii) {
    json& at = out.emplace_back(applies() ? sound_share(all, r) : nothing_at(r));
    if (applies())
      at["published"] = share_of(all, &ImageRadii::published, r, moxie::Soundness::diagnostic);
  }
  return out;
}

json ImageCertificates::shares(const std::vector<double>& radii,
                               const moxie::DualOptions& options) const {
  json out = json::array();
  std::vector<ImageRadii> all;
  for (std::size_t i = 0; applies() && i < labels_.size(); ++i)
    all.push_back(radii_of_dual(views_[0][i], views_[1][i], labels_[i], options));
  const bool outvotes = options.space != moxie::DualSpace::logit && options.alpha > 0.5;
  const auto if_applicable = [&](moxie::Soundness s) {
    return outvotes ? std::optional(s) : std::nullopt;
  };
  for (const double r : radii) {
    json& at = out.emplace_back(applies() ? sound_share(all, r) : nothing_at(r));
    if (!applies()) continue;
    at["robust_alone"] =
        share_of(all, &ImageRadii::robust_alone, r, if_applicable(moxie::Soundness::formal));
    at["pair"] = share_of(all, &ImageRadii::pair, r, moxie::Soundness::formal);
    at["published"] =
        share_of(all, &ImageRadii::published, r, if_applicable(moxie::Soundness::diagnostic));
  }
  return out;
}

json certify_image_moe(Backend& backend, const std::filesystem::path& file,
                       const CheckpointInfo& info, const ModelPlan& plan, const ImageSet& images,
                       const std::vector<double>& radii) {
  if (!is_dual(info.options)) {
    const Model model = make_model(backend, info.options, plan);
    moxie::load_checkpoint(file, model.parameters());
    const ImageCertificates all(model, info, plan, images);
    json out = all.figures();
    out["model"] = "mixture of whole networks";
    out["radii"] = all.shares(radii);
    return out;
  }
  const Dual dual = make_dual(backend, info.options, plan);
  moxie::load_checkpoint(file, dual.parameters());
  const ImageCertificates all(dual, info, plan, images);
  json out = all.figures();
  out["model"] = "dual model of mixtures of whole networks";
  out["alpha"] = info.options.alpha;
  out["space"] = info.options.dual_space;
  out["radii"] = all.shares(radii, dual.options());
  return out;
}

}  // namespace vmoe
