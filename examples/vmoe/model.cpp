#include "model.hpp"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "image_moe.hpp"
#include "moe_feed.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/nn/placement.hpp"
#include "moxie/nn/presets.hpp"
#include "moxie/nn/vit.hpp"
#include "robust_options.hpp"
#include "router_defaults.hpp"

namespace vmoe {
namespace {

moxie::Pooling pooling_of(const std::string& name, moxie::Pooling preset) {
  if (name == "preset") return preset;
  if (name == "token") return moxie::Pooling::token;
  if (name == "mean") return moxie::Pooling::mean;
  if (name == "map") return moxie::Pooling::map;
  moxie::throw_config("vmoe: pooling is '", name, "', expected one of: preset, token, mean, map");
}

moxie::Positions positions_of(const std::string& name) {
  if (name == "learned") return moxie::Positions::learned;
  if (name == "sincos2d") return moxie::Positions::sincos2d;
  if (name == "none") return moxie::Positions::none;
  moxie::throw_config("vmoe: positions is '", name, "', expected one of: learned, sincos2d, none");
}

/// "last-2" and the like; `preset`: the preset's blocks, if they fit into `blocks`.
std::vector<Index> placement_of(const std::string& name, std::vector<Index> preset, Index blocks) {
  if (name == "none") return {};
  if (name == "preset") {
    for (const Index b : preset)
      if (b >= blocks)
        moxie::throw_config("vmoe: moe is 'preset', but the preset's block ", b, " is beyond the ",
                            blocks, " blocks: name the placement (--moe last-2)");
    return preset;
  }
  using Rule = std::vector<Index> (*)(Index, Index);
  constexpr std::pair<std::string_view, Rule> rules[] = {{"last-odd-", moxie::last_odd},
                                                         {"last-", moxie::last_n},
                                                         {"every-", moxie::every_n},
                                                         {"consecutive-", moxie::consecutive_last}};
  for (const auto& [prefix, rule] : rules) {
    if (!name.starts_with(prefix)) continue;
    const char* const end = name.data() + name.size();
    Index n = 0;
    const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, n);
    if (error == std::errc{} && stop == end) return rule(n, blocks);
  }
  moxie::throw_config("vmoe: moe is '", name,
                      "', expected preset, none, last-N, every-N, last-odd-N or consecutive-N");
}

double layer_flops(const moxie::VitConfig& vit, const Options& options, Index dense_hidden) {
  const auto t = static_cast<double>(vit.tokens());
  const auto d = static_cast<double>(vit.width);
  double flops = 2 * static_cast<double>(vit.grid().cells()) *
                 static_cast<double>(vit.patch * vit.patch * vit.channels) * d;
  for (Index block = 0; block < vit.blocks; ++block) {
    flops += 2 * t * (4 * d * d + 2 * t * d);
    double hidden = static_cast<double>(vit.hidden);
    if (vit.is_moe(block)) {
      hidden = static_cast<double>(dense_hidden);
      const Index scored = options.experts + (options.residual ? 2 : 0);
      if (!options.dense) flops += 2 * t * d * static_cast<double>(scored);
    }
    flops += 2 * t * 2 * d * hidden;
  }
  return flops + 2 * d * static_cast<double>(vit.classes);
}

}  // namespace

ModelPlan plan_model(const Options& o, const ImageShape& image, Index classes) {
  if (o.model == "image_moe") return plan_image_moe(o, image, classes);
  ModelPlan plan;
  moxie::VitConfig& vit = plan.vit;
  vit = moxie::vit_preset(o.preset);
  vit.image_height = image.height;
  vit.image_width = image.width;
  vit.channels = o.channels == 0 ? image.channels : o.channels;
  if (vit.channels != image.channels && image.channels != 1)
    moxie::throw_config("vmoe: channels is ", o.channels, ", but the images have ", image.channels,
                        "; expected 0 or ", image.channels);
  vit.classes = classes;
  const auto take = [](Index option, Index& size) {
    if (option != 0) size = option;
  };
  take(o.patch, vit.patch);
  take(o.width, vit.width);
  take(o.blocks, vit.blocks);
  take(o.heads, vit.heads);
  take(o.hidden, vit.hidden);
  vit.pooling = pooling_of(o.pooling, vit.pooling);
  vit.positions = positions_of(o.positions);
  vit.moe_blocks = placement_of(o.moe, vit.moe_blocks, vit.blocks);
  vit.head_bias = o.loss == "sigmoid" ? -std::log(static_cast<double>(classes)) : 0;
  moxie::check(vit);
  if (o.prc > 0 && vit.moe_blocks.empty())
    moxie::throw_config("vmoe: prc is ", o.prc, ", but moe is '", o.moe,
                        "' and no block has experts; expected prc 0 or blocks with experts");
  plan.dense_hidden = twin_hidden(o, vit.hidden);
  plan.active_flops = layer_flops(vit, o, plan.dense_hidden);
  return plan;
}

Model make_part(const moxie::Scope<Backend>& at, const Options& o, const ModelPlan& plan) {
  if (o.model == "image_moe") return make_image_moe(at, o, plan);
  const moxie::VitConfig& vit = plan.vit;
  const auto make_feed = [&](const moxie::Scope<Backend>& scope, Index number) -> Model {
    if (o.dense) {
      // The twin has ordinary perceptrons, so they are called so.
      moxie::Scope<Backend> block = scope;
      block.prefix.erase(block.prefix.size() - std::string_view("Moe/").size());
      return moxie::Mlp<Backend>(block / "Mlp", vit.width, plan.dense_hidden, vit.width);
    }
    return make_moe_feed(scope, o, vit, number);
  };
  return moxie::Vit<Backend>(at, vit, make_feed);
}

Model make_model(Backend& backend, const Options& o, const ModelPlan& plan) {
  if (is_dual(o)) return make_dual(backend, o, plan);
  Model model = make_part(moxie::root(backend), o, plan);
  model.parameters().initialize(o.seed);
  return model;
}

nlohmann::json describe(const Options& o, const ModelPlan& plan, const Model& model) {
  const moxie::VitConfig& vit = o.model == "image_moe" ? plan.expert : plan.vit;
  nlohmann::json out = {{"width", vit.width},
                        {"blocks", vit.blocks},
                        {"heads", vit.heads},
                        {"hidden", vit.hidden},
                        {"patch", vit.patch},
                        {"channels", vit.channels},
                        {"tokens", plan.vit.tokens()},
                        {"parameters", model.parameters().size()},
                        {"active_flops_per_image", plan.active_flops}};
  out["moe_blocks"] = nlohmann::json::array();
  if (plan.residual) {
    for (const char* transformers : {"width", "blocks", "heads", "hidden", "patch"})
      out.erase(transformers);
    out["widths"] = plan.residual->widths;
    out["blocks_a_stage"] = plan.residual->blocks;
  }
  if (o.model == "image_moe") out["expert"] = o.image_expert;
  if (o.dense) {
    out["kind"] = "dense";
    out["dense_hidden"] = plan.dense_hidden;
    out["dense_blocks"] = vit.moe_blocks;
  } else {
    out["kind"] = is_dual(o)                    ? "dual model of mixtures of experts"
                  : plan.vit.moe_blocks.empty() ? "dense"
                                                : "mixture of experts";
    out["moe_blocks"] = plan.vit.moe_blocks;
    out["experts"] = o.experts;
    out["k"] = o.k;
    out["router"] = o.router;
    out["active_experts"] = active_experts(o);
  }
  return out;
}

}  // namespace vmoe
