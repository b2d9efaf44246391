#include "image_certificate.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/batch.hpp"
#include "kernel_values.hpp"
#include "moxie/layer/tape.hpp"
#include "moxie/robust/certificate.hpp"
#include "moxie/robust/lipschitz.hpp"
#include "robust_options.hpp"

namespace vmoe {
namespace {

using nlohmann::json;

/// In L-infinity.
double bound_of(const KernelValues& kernel) { return moxie::linf_bound(kernel.view()).value; }

/// Makes a kernel that reads normalised pixels one that reads pixels in [0, 1]; its inputs run over
/// the channels first.
KernelValues of_pixels(KernelValues k, const Normalization& normalization, Index channels) {
  const auto data_channels = static_cast<Index>(normalization.std_dev.size());
  for (Index i = 0; i < k.rows; ++i)
    for (Index j = 0; j < k.cols; ++j)
      k.values[to_size(i * k.cols + j)] /=
          normalization.std_dev[to_size(data_channels == channels ? i % channels : 0)];
  return k;
}

/// L-infinity bounds of each class score of an expert; none for one with a norm, or of another
/// kind.
std::vector<double> class_bounds(const Model& model, const std::string& at,
                                 const Normalization& normalization, Index channels) {
  const KernelValues stem = kernel_of(model, at + "stem/kernel");
  const KernelValues head = kernel_of(model, at + "head/kernel");
  if (stem.empty() || head.empty() || !kernel_of(model, at + "norm/scale").empty()) return {};
  moxie::LipschitzBound body{bound_of(of_pixels(stem, normalization, channels))};
  for (Index b = 0;; ++b) {
    const std::string block = at + "block_" + std::to_string(b) + "/";
    const KernelValues first = kernel_of(model, block + "Conv_0/kernel");
    if (first.empty()) break;
    const KernelValues second = kernel_of(model, block + "Conv_1/kernel");
    const KernelValues beside = kernel_of(model, block + "Conv_shortcut/kernel");
    const moxie::LipschitzBound branch = moxie::chain({bound_of(first)}, {bound_of(second)});
    const double shortcut = beside.empty() ? 1.0 : bound_of(beside);
    body = moxie::chain(body, {(shortcut + branch.value) * (1 + 4e-16)});
  }
  std::vector<double> bounds;
  for (Index k = 0; k < head.cols; ++k) {
    double sum = 0;
    for (Index i = 0; i < head.rows; ++i) sum += std::fabs(head.values[to_size(i * head.cols + k)]);
    bounds.push_back(moxie::chain(body, {moxie::detail::above_sum(sum, head.rows)}).value);
  }
  return bounds;
}

class ReadLogits final : public moxie::RoutingVisitor<Backend> {
 public:
  void sparse(const moxie::SparseRouting<Backend>& r) override { routing = &r; }
  const moxie::SparseRouting<Backend>* routing = nullptr;
};

/// Of the images: their certificates in the order of the images, 0 where the class is wrong.
std::vector<moxie::Certificate> certify_images(const Model& model, const CheckpointInfo& info,
                                               const ModelPlan& plan, const ImageSet& images,
                                               const std::vector<std::vector<double>>& lip,
                                               const KernelValues& router) {
  constexpr Index at_a_time = 64;
  const Index classes = plan.vit.classes, experts = router.cols;
  const Batches batches(images, classes, info.normalization,
                        {.batch_size = at_a_time, .model_channels = plan.vit.channels},
                        Batches::Use::evaluate);
  const Batches::Epoch epoch = batches.epoch(0);
  std::vector<float> x(to_size(at_a_time * model.input_width())), z(to_size(at_a_time * classes));
  std::vector<std::int32_t> y(to_size(at_a_time));
  auto tape = moxie::make_tape(model, at_a_time, moxie::Gradients::none);
  const std::vector<moxie::Routes<Backend>> best{
      {.weights = moxie::Routes<Backend>::Weights::unit, .rank = 0}};
  const double one = 1, hard = 0;
  std::vector<moxie::Certificate> all;
  for (Index b = 0; b < batches.per_epoch(); ++b) {
    const Index n = batches.rows(b);
    batches.fill(epoch, b, {.images = x, .labels = y});
    const moxie::Pass<Backend> pass{.mode = moxie::Mode::eval, .gradients = moxie::Gradients::none};
    model.forward({x.data(), n, model.input_width()}, {z.data(), n, classes}, tape,
                  pass.with(best));
    ReadLogits read;
    model.visit_routing(tape, read);
    for (Index i = 0; i < n; ++i) {
      const std::vector<double> scores(z.data() + i * classes, z.data() + (i + 1) * classes);
      const float* logit = read.routing->logits.row(i);
      const std::vector<double> logits(logit, logit + experts);
      const auto expert = to_size(std::max_element(logits.begin(), logits.end()) - logits.begin());
      const auto label = y[to_size(i)];
      const auto top = std::max_element(scores.begin(), scores.end()) - scores.begin();
      if (top != label) {
        all.push_back({.radius = -1});
        continue;
      }
      const moxie::MixtureConstants constants{
          .gate = {&one, 1}, .gate_lip = {&hard, 1},
          .expert_lip = {lip[expert].data(), 1, classes}};
      all.push_back(moxie::within_route(moxie::certify_mixture(scores, label, constants),
                                        moxie::route_radius(logits, router.view(), 1)));
    }
  }
  return all;
}

}  // namespace

json certify_image_moe(const Model& model, const CheckpointInfo& info, const ModelPlan& plan,
                       const ImageSet& images, const std::vector<double>& radii) {
  const Options& o = info.options;
  const bool dual = is_dual(o);
  json out = {{"model", dual ? "dual model of mixtures of whole networks"
                             : "mixture of whole networks"},
              {"certificate", "not_applicable"},
              {"reasons", json::array()},
              {"radii", json::array()},
              {"layers", json::array()}};
  std::vector<std::vector<double>> lip;
  KernelValues router;
  bool bounded = true;
  for (Index layer = 0; layer < static_cast<Index>(plan.vit.moe_blocks.size()); ++layer) {
    const std::string at =
        std::string(!dual ? "" : layer == 0 ? "Standard/" : "Robust/").append("Moe/");
    router = of_pixels(kernel_of(model, at + "Router/kernel"), info.normalization,
                       plan.vit.channels);
    json own = {{"block", layer},
                {"gate", {{"linf", bound_of(router)},
                          {"l2", moxie::spectral_bound(router.view()).value},
                          {"label", "formal"}}},
                {"experts_linf", nullptr},
                {"experts_l2", nullptr}};
    std::vector<double> largest;
    lip.clear();
    for (Index e = 0; e < o.experts; ++e) {
      lip.push_back(class_bounds(model, at + std::to_string(e) + "/", info.normalization,
                                 plan.vit.channels));
      bounded = bounded && !lip.back().empty();
      if (bounded) largest.push_back(*std::max_element(lip.back().begin(), lip.back().end()));
    }
    if (bounded)
      own["experts_linf"] = {{"experts", largest},
                             {"largest", *std::max_element(largest.begin(), largest.end())},
                             {"label", "formal"}};
    out["layers"].push_back(std::move(own));
  }
  const auto refuse = [&](bool so, const char* reason) {
    if (so) out["reasons"].push_back(reason);
  };
  refuse(!bounded, "experts with attention or norms: they have no finite Lipschitz constant here");
  refuse(dual, "a dual model mixes scores, whose size has no bound");
  refuse(o.k != 1, "scores of several experts are added, and have no bound that is known");
  refuse(o.router != "softmax_token_choice" || o.gate != "linear" || o.bias_rate > 0,
         "the route-stable radius is known for a linear router that takes the largest logit");
  const bool applies = out["reasons"].empty();
  std::vector<moxie::Certificate> all;
  if (applies) {
    out["certificate"] = "sound";
    out["images"] = images.count;
    all = certify_images(model, info, plan, images, lip, router);
  }
  for (const double r : radii) {
    json share = {{"linf", r}, {"certified", nullptr}, {"limited_by_route", nullptr}};
    if (applies) {
      double certified = 0, limited = 0;
      for (const moxie::Certificate& c : all) {
        certified += c.radius >= r ? 1 : 0;
        limited += c.radius >= 0 && c.radius < r && c.limited_by_route ? 1 : 0;
      }
      share["certified"] = certified / static_cast<double>(images.count);
      share["limited_by_route"] = limited / static_cast<double>(images.count);
    }
    out["radii"].push_back(std::move(share));
  }
  return out;
}

}  // namespace vmoe
