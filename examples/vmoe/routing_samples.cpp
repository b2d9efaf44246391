#include "routing_samples.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "mirror.hpp"
#include "report/base64.hpp"

namespace vmoe {
namespace {

using nlohmann::json;

/// routes[layer][image][patch] = experts, -1 for a dropped choice; of soft routing the k that weigh most, the most first.
class RouteReader final : public moxie::RoutingVisitor<Backend> {
 public:
  RouteReader(Backend& backend, Index images, const moxie::VitConfig& vit, Index k)
      : backend_(backend), images_(images), vit_(vit), k_(k) {}
  void sparse(const moxie::SparseRouting<Backend>& r) override {
    const std::vector<float> weight = to_host(backend_, r.weight);
    const std::vector<std::int32_t> choice = to_host(backend_, r.choice);
    const std::vector<std::int32_t> row = to_host(backend_, r.row);
    const std::vector<std::int32_t> first = to_host(
        backend_, moxie::ConstIntVector<Backend>(r.first.data, r.first ? r.shape.tokens + 1 : 0));
    read([&](Index token) {
      const Index begin = first.empty() ? token * r.choice.cols : first[to_size(token)];
      const Index end = first.empty() ? begin + r.choice.cols : first[to_size(token + 1)];
      std::vector<std::size_t> order(to_size(end - begin));
      std::iota(order.begin(), order.end(), to_size(begin));
      if (!first.empty())  // where experts chose, a token's lie in their own order
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return weight[a] > weight[b]; });
      json experts = json::array();
      for (const std::size_t a : order) experts.push_back(row[a] >= 0 ? choice[a] : -1);
      return experts;
    });
  }
  void soft(const moxie::SoftRouting<Backend>& r) override {
    const std::vector<float> probs = to_host(backend_, r.probs);
    read([&](Index token) {
      const float* const own = probs.data() + token * r.probs.cols;
      std::vector<Index> order(to_size(r.probs.cols));
      std::iota(order.begin(), order.end(), Index{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](Index a, Index b) { return own[a] > own[b]; });
      order.resize(std::min(order.size(), to_size(k_)));
      return json(order);
    });
  }
  std::vector<json> layers;

 private:
  template <class F>
  void read(const F& experts_of) {
    const Index skipped = vit_.class_token() ? 1 : 0;
    json layer = json::array();
    for (Index image = 0; image < images_; ++image) {
      json patches = json::array();
      for (Index token = image * vit_.tokens() + skipped; token < (image + 1) * vit_.tokens();
           ++token)
        patches.push_back(experts_of(token));
      layer.push_back(std::move(patches));
    }
    layers.push_back(std::move(layer));
  }

  Backend& backend_;
  Index images_;
  const moxie::VitConfig& vit_;
  Index k_;
};

/// The i-th image of each class before the i+1-th of any.
ImageSet spread_over_classes(const ImageSet& set, std::size_t classes, Index count) {
  std::vector<std::vector<Index>> by_class(classes);
  for (Index i = 0; i < set.count; ++i) by_class[to_size(set.labels[to_size(i)])].push_back(i);
  ImageSet out;
  out.shape = set.shape;
  for (std::size_t round = 0; out.count < count; ++round) {
    const Index before = out.count;
    for (std::size_t c = 0; c < classes && out.count < count; ++c) {
      if (round >= by_class[c].size()) continue;
      const std::uint8_t* image = set.image(by_class[c][round]);
      out.pixels.insert(out.pixels.end(), image, image + set.shape.values());
      out.labels.push_back(static_cast<std::int32_t>(c));
      ++out.count;
    }
    if (out.count == before) break;
  }
  return out;
}

}  // namespace

json sample_routing(Evaluator& evaluator, const ModelPlan& plan, const Options& options,
                    const Dataset& data, const Normalization& normalization) {
  const auto classes = static_cast<Index>(data.classes.size());
  const moxie::VitConfig& vit = plan.vit;
  json out = {{"patch", vit.patch},         {"grid", {vit.grid().down, vit.grid().across}},
              {"experts", options.experts}, {"k", options.k},
              {"router", options.router},   {"classes", data.classes},
              {"layers", json::array()},    {"images", json::array()}};
  for (const Index block : vit.moe_blocks) out["layers"].push_back({{"block", block}});
  const Index wanted = std::min({options.report_images, options.batch, data.test.count});
  if (wanted < 1) return out;
  const ImageSet samples = spread_over_classes(data.test, data.classes.size(), wanted);
  const Batches batches(samples, classes, normalization,
                        {.batch_size = samples.count, .model_channels = vit.channels},
                        Batches::Use::evaluate);
  // Room for whole groups: the evaluator reads (and masks) the images that fill the last one.
  const Index group = options.group_images;
  const Index whole = (samples.count + group - 1) / group * group;
  std::vector<float> inputs(to_size(whole * batches.row_values()));
  batches.fill(batches.epoch(0), 0, {.images = inputs});
  const std::vector<float>& scores = evaluator.scores(inputs, samples.count);
  RouteReader reader(evaluator.backend(), samples.count, vit, options.k);
  evaluator.visit(reader);

  for (Index i = 0; i < samples.count; ++i) {
    const float* row = scores.data() + i * classes;
    const float* best = std::max_element(row, row + classes);
    double sum = 0;
    for (Index c = 0; c < classes; ++c) sum += std::exp(static_cast<double>(row[c] - *best));
    json routes = json::array();
    for (const json& layer : reader.layers) routes.push_back(layer[to_size(i)]);
    out["images"].push_back({{"height", samples.shape.height},
                             {"width", samples.shape.width},
                             {"channels", samples.shape.channels},
                             {"pixels", base64(samples.image(i), to_size(samples.shape.values()))},
                             {"label", samples.labels[to_size(i)]},
                             {"prediction", best - row},
                             {"probability", 1 / sum},
                             {"routes", std::move(routes)}});
  }
  return out;
}

}  // namespace vmoe
