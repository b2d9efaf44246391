#include "mixture_bounds.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "moxie/robust/lipschitz.hpp"

namespace vmoe {
namespace {

double linf_of(const KernelValues& kernel) { return moxie::linf_bound(kernel.view()).value; }

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

/// Bounds of each class score of an expert; none for one with a norm, or of another kind.
std::vector<double> class_bounds(const Model& model, const std::string& at,
                                 const Normalization& normalization, Index channels) {
  const KernelValues stem = kernel_of(model, at + "stem/kernel");
  const KernelValues head = kernel_of(model, at + "head/kernel");
  if (stem.empty() || head.empty() || !kernel_of(model, at + "norm/scale").empty()) return {};
  moxie::LipschitzBound body{linf_of(of_pixels(stem, normalization, channels))};
  for (Index b = 0;; ++b) {
    const std::string block = at + "block_" + std::to_string(b) + "/";
    const KernelValues first = kernel_of(model, block + "Conv_0/kernel");
    if (first.empty()) break;
    const KernelValues second = kernel_of(model, block + "Conv_1/kernel");
    const KernelValues beside = kernel_of(model, block + "Conv_shortcut/kernel");
    const moxie::LipschitzBound branch = moxie::chain({linf_of(first)}, {linf_of(second)});
    const double shortcut = beside.empty() ? 1.0 : linf_of(beside);
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

}  // namespace

bool MixtureBounds::bounded() const {
  return std::none_of(experts.begin(), experts.end(), [](const auto& e) { return e.empty(); });
}

MixtureBounds mixture_bounds(const Model& model, const std::string& at, const CheckpointInfo& info,
                             const ModelPlan& plan) {
  const std::string moe = at + "Moe/";
  const Index channels = plan.vit.channels;
  MixtureBounds out;
  if (info.options.gate == "linear")
    out.router = of_pixels(kernel_of(model, moe + "Router/kernel"), info.normalization, channels);
  out.logits = linf_of(out.router);
  for (Index e = 0; e < info.options.experts; ++e)
    out.experts.push_back(
        class_bounds(model, moe + std::to_string(e) + "/", info.normalization, channels));
  return out;
}

nlohmann::json to_json(const MixtureBounds& bounds, Index block) {
  nlohmann::json out = {
      {"block", block}, {"gate", nullptr}, {"experts_linf", nullptr}, {"experts_l2", nullptr}};
  if (!bounds.router.empty())
    out["gate"] = {{"linf", bounds.logits},
                   {"l2", moxie::spectral_bound(bounds.router.view()).value},
                   {"label", "formal"}};
  if (!bounds.bounded()) return out;
  std::vector<double> largest;
  for (const std::vector<double>& of_classes : bounds.experts)
    largest.push_back(*std::max_element(of_classes.begin(), of_classes.end()));
  out["experts_linf"] = {{"experts", largest},
                         {"largest", *std::max_element(largest.begin(), largest.end())},
                         {"label", "formal"}};
  return out;
}

}  // namespace vmoe
