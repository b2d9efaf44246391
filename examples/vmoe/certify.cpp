#include "certify.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "checkpoint_info.hpp"
#include "image_certificate.hpp"
#include "kernel_values.hpp"
#include "model.hpp"
#include "moxie/robust/lipschitz.hpp"
#include "session.hpp"
#include "subject.hpp"
#include "trained_model.hpp"

namespace vmoe {
namespace {

using nlohmann::json;
constexpr const char* certify_command = "vmoe certify";

std::vector<std::string> reasons(const Model& model, const Options& o) {
  std::vector<std::string> out{
      "attention: products of its inputs have no finite Lipschitz constant",
      "layer normalization: its constant grows as the variance of a token vanishes, up to 1 / "
      "sqrt(epsilon)"};
  if (model.moe_layers() == 0) return out;
  out.push_back(
      "routers inside: a selection jumps where two logits are equal, and no radius around an image "
      "is known within which those of every token and layer stay");
  if (o.group_images > 1)
    out.push_back("groups of " + std::to_string(o.group_images) +
                  " images compete for slots in evaluation unless nothing is dropped");
  return out;
}

json bounds_json(const std::vector<double>& of_experts) {
  return {{"experts", of_experts},
          {"largest", *std::max_element(of_experts.begin(), of_experts.end())},
          {"label", "formal"}};
}

/// Bounds of a MoE layer's gate and experts, from the layer's own input.
json layer_bounds(const Model& model, const Options& o, Index block) {
  const std::string prefix = "Encoder/encoderblock_" + std::to_string(block) + "/Moe/";
  json out = {
      {"block", block}, {"gate", nullptr}, {"experts_linf", nullptr}, {"experts_l2", nullptr}};
  const std::vector<KernelValues> gate = kernels_of(model, prefix + "Router/kernel");
  if (gate.size() == 1 && o.gate == "linear")
    out["gate"] = {{"linf", moxie::linf_bound(gate.front().view()).value},
                   {"l2", moxie::spectral_bound(gate.front().view()).value},
                   {"label", "formal"}};
  const std::vector<KernelValues> first = kernels_of(model, prefix + "Mlp/Dense_0/kernel");
  const std::vector<KernelValues> second = kernels_of(model, prefix + "Mlp/Dense_1/kernel");
  if (o.expert != "mlp" || first.empty() || first.size() != second.size()) {
    out["reason"] = "experts of kind '" + o.expert + "': no bound of theirs is known";
    return out;
  }
  std::vector<double> linf, l2;
  for (std::size_t e = 0; e < first.size(); ++e) {
    linf.push_back(moxie::mlp_linf_bound(first[e].view(), second[e].view()).value);
    l2.push_back(moxie::mlp_l2_bound(first[e].view(), second[e].view()).value);
  }
  out["experts_linf"] = bounds_json(linf);
  out["experts_l2"] = bounds_json(l2);
  return out;
}

}  // namespace

void check_radii(const char* who, const std::vector<double>& radii) {
  for (const double r : radii)
    if (!(r > 0) || !std::isfinite(r))
      moxie::throw_config(who, ": a radius is ", r, ", expected finite numbers above 0");
}

json certify(const CertifyRequest& request) {
  check_radii(certify_command, request.radii);
  const std::filesystem::path file = newest_checkpoint(request.checkpoint);
  const CheckpointInfo info = CheckpointInfo::read(file);
  if (info.options.model != "image_moe" && !request.about_images.empty())
    moxie::throw_config("vmoe certify: ", request.about_images,
                        " has no effect with a vision transformer: it has no radii, and no image "
                        "is read");
  const ModelPlan plan =
      plan_model(info.options, info.image, static_cast<Index>(info.classes.size()));
  moxie::ThreadPool pool(1);
  Options exact = info.options;
  exact.tf32 = false;  // a certificate's scores are as good as floats are
  Backend backend = make_backend(pool, exact);
  json out;
  if (info.options.model == "image_moe") {
    const std::vector<Checkpoint> checkpoints{{file, info}};
    const Sample sample =
        draw_sample(certify_command, checkpoints, request.data, request.images, request.seed);
    out = certify_image_moe(backend, file, info, plan, sample.images, request.radii);
    out["data"] = test_data_path(checkpoints, request.data);
    out["seed"] = request.seed;
  } else {
    const Model model = make_model(backend, info.options, plan);
    moxie::load_checkpoint(file, model.parameters());
    out = {{"model", "vision transformer"},
           {"certificate", "not_applicable"},
           {"reasons", reasons(model, info.options)},
           {"radii", json::array()},
           {"layers", json::array()}};
    for (const double r : request.radii)
      out["radii"].push_back({{"linf", r}, {"certified", nullptr}, {"limited_by_route", nullptr}});
    if (model.moe_layers() > 0)
      for (const Index block : plan.vit.moe_blocks)
        out["layers"].push_back(layer_bounds(model, info.options, block));
  }
  out["checkpoint"] = file.string();
  out["step"] = info.step;
  return out;
}

std::string shares_text(const json& radii) {
  const bool dual = !radii.empty() && radii.front().contains("pair");
  const auto percent = [](const json& of) {
    if (of.is_null()) return std::string("-");
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", 100 * of.get<double>());
    return std::string(text);
  };
  std::string out = "L-inf radius  certified %  limited by route %";
  out.append(dual ? "  robust part alone %  both parts %" : "").append("  published *%\n");
  for (const json& radius : radii) {
    char text[192];
    std::snprintf(text, sizeof text, "%12.6g %12s %19s", radius.at("linf").get<double>(),
                  percent(radius.at("certified")).c_str(),
                  percent(radius.at("limited_by_route")).c_str());
    out += text;
    if (dual) {
      std::snprintf(text, sizeof text, " %20s %13s",
                    percent(radius.at("robust_alone").at("certified")).c_str(),
                    percent(radius.at("pair").at("certified")).c_str());
      out += text;
    }
    std::snprintf(text, sizeof text, " %13s\n",
                  percent(radius.at("published").at("certified")).c_str());
    out += text;
  }
  return out.append("* by the published formula: a diagnostic, which promises nothing\n");
}

std::string certify_text(const json& f) {
  std::string out = f.at("checkpoint").get<std::string>();
  out.append("\ncertificate: ").append(f.at("certificate").get<std::string>()).append("\n");
  for (const json& reason : f.at("reasons"))
    out.append("  ").append(reason.get<std::string>()).append("\n");
  if (f.contains("alpha"))
    out.append(moxie::detail::message("dual model in the space ", f.at("space").get<std::string>(),
                                      ", alpha ", f.at("alpha").get<double>(), "\n"));
  if (f.at("certificate") == "sound")
    out.append(moxie::detail::message(f.at("images").get<Index>(), " test images\n"))
        .append(shares_text(f.at("radii")));
  if (f.at("layers").empty()) return out;
  out +=
      "\nLipschitz bounds of MoE layers as maps of their own input\n"
      "     block  gate L-inf   gate L2   largest expert L-inf    L2\n";
  for (const json& layer : f.at("layers")) {
    const auto number = [](const json& of, const char* key) {
      char text[32];
      if (of.is_null()) return std::string("-");
      std::snprintf(text, sizeof text, "%.4g", of.at(key).get<double>());
      return std::string(text);
    };
    char text[160];
    std::snprintf(text, sizeof text, "%10lld %11s %9s %22s %9s\n",
                  layer.at("block").get<long long>(), number(layer.at("gate"), "linf").c_str(),
                  number(layer.at("gate"), "l2").c_str(),
                  number(layer.at("experts_linf"), "largest").c_str(),
                  number(layer.at("experts_l2"), "largest").c_str());
    out += text;
  }
  return out;
}

}  // namespace vmoe
