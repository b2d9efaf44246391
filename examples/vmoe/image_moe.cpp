#include "image_moe.hpp"

#include <charconv>

#include "moe_feed.hpp"
#include "moxie/expert/networks.hpp"
#include "moxie/nn/vit.hpp"
#include "moxie/runtime/make_layer.hpp"
#include "robust_options.hpp"

namespace vmoe {
namespace {

std::vector<Index> widths_of(const std::string& text) {
  std::vector<Index> widths;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    Index width = 0;
    const auto [stop, error] = std::from_chars(at, end, width);
    if (error != std::errc{} || width < 1 || (stop != end && *stop != ',')) break;
    widths.push_back(width);
    if (stop == end) return widths;
    at = stop + 1;
  }
  moxie::throw_config("vmoe: resnet_widths is '", text,
                      "', expected channels of the stages with commas between them: 16,32,64");
}

moxie::PixelNorm norm_of(const std::string& name) {
  if (name == "layer") return moxie::PixelNorm::layer;
  if (name == "none") return moxie::PixelNorm::none;
  moxie::throw_config("vmoe: resnet_norm is '", name, "', expected one of: layer, none");
}

double residual_flops(const moxie::ResidualConfig& c) {
  const auto area = [](Index height, Index width) { return static_cast<double>(height * width); };
  Index height = (c.image_height - 1) / c.stem_stride + 1;
  Index width = (c.image_width - 1) / c.stem_stride + 1;
  auto channels = static_cast<double>(c.widths[0]);
  double flops = 2 * area(height, width) * 9 * static_cast<double>(c.channels) * channels;
  for (std::size_t stage = 0; stage < c.widths.size(); ++stage)
    for (Index i = 0; i < c.blocks; ++i) {
      const auto out = static_cast<double>(c.widths[stage]);
      if (stage > 0 && i == 0) {
        height = (height - 1) / 2 + 1;
        width = (width - 1) / 2 + 1;
      }
      flops += 2 * area(height, width) * 9 * (channels * out + out * out);
      if (channels != out) flops += 2 * area(height, width) * channels * out;
      channels = out;
    }
  return flops + 2 * channels * static_cast<double>(c.classes);
}

/// Makes one expert of the mixture.
struct MakeExpert {
  ModelPlan plan;

  moxie::AnyLayer<Backend> operator()(const moxie::Scope<Backend>& scope) const {
    if (plan.residual) return moxie::ResidualNetwork<Backend>(scope, *plan.residual);
    return moxie::Vit<Backend>(scope, plan.expert);
  }
};

}  // namespace

ModelPlan plan_image_moe(const Options& o, const ImageShape& image, Index classes) {
  if (image.height != image.width)
    moxie::throw_config("vmoe: model is 'image_moe', but the images are ", image.height, "x",
                        image.width, ", expected square ones");
  if (o.dense || o.residual || o.shared_hidden > 0)
    moxie::throw_config(
        "vmoe: model is 'image_moe', whose experts are whole networks; expected "
        "none of dense, residual and shared_hidden");
  Options expert = o;
  expert.model = "vit";
  expert.moe = "none";
  if (o.image_expert == "resnet") expert.patch = 1;  // it has none, so any image will do
  ModelPlan plan = plan_model(expert, image, classes);
  if (o.image_expert == "resnet") {
    plan.residual = {.image_height = image.height,
                     .image_width = image.width,
                     .channels = plan.vit.channels,
                     .stem_stride = o.resnet_stem_stride,
                     .widths = widths_of(o.resnet_widths),
                     .blocks = o.resnet_blocks,
                     .classes = classes,
                     .norm = norm_of(o.resnet_norm)};
    plan.active_flops = residual_flops(*plan.residual);
  } else if (o.image_expert != "vit") {
    moxie::throw_config("vmoe: image_expert is '", o.image_expert,
                        "', expected one of: vit, resnet");
  }
  plan.expert = plan.vit;
  plan.vit.patch = image.height;
  plan.vit.width = plan.vit.pixels();
  plan.vit.blocks = is_dual(o) ? 2 : 1;
  plan.vit.pooling = moxie::Pooling::mean;
  plan.vit.moe_blocks = is_dual(o) ? std::vector<Index>{0, 1} : std::vector<Index>{0};
  const double router = 2 * static_cast<double>(plan.vit.pixels() * o.experts);
  const double models = is_dual(o) ? 2 : 1;
  plan.active_flops = models * (static_cast<double>(o.k) * plan.active_flops + router);
  return plan;
}

Model make_image_moe(const moxie::Scope<Backend>& scope, const Options& o, const ModelPlan& plan) {
  moxie::MoeConfig c = moe_config(o, plan.vit);
  c.shape.group = 0;
  const moxie::RouterRegistry<Backend> registry;
  const moxie::WithGate router{moxie::make_gate<Backend>(c.router), registry.make(c.router)};
  return moxie::MoeLayer{scope / "Moe",
                         c.shape,
                         router,
                         moxie::make_capacity({.rule = "dropless"}),
                         moxie::Networks<MakeExpert>{{plan}, plan.vit.classes},
                         moxie::make_regularizers<Backend>(c.regularizers)};
}

Dual make_dual(Backend& backend, const Options& o, const ModelPlan& plan) {
  const moxie::Scope<Backend> scope = moxie::root(backend);
  Options part = o;
  part.objective = "supervised";
  const auto make = [&](const char* name) {
    return SharedModel(std::make_shared<const Model>(make_part(scope / name, part, plan)));
  };
  Dual dual(make("Standard"), make("Robust"), dual_options_of(o));
  scope.parameters->initialize(o.seed);
  return dual;
}

}  // namespace vmoe
