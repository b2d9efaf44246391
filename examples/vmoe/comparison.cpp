#include "comparison.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "moxie/routing/routing_change.hpp"
#include "report/base64.hpp"
#include "subject.hpp"

namespace vmoe {
namespace {

using moxie::TokenExperts;
using nlohmann::json;
using Bytes = std::vector<std::uint8_t>;

constexpr double direction_steps = 28;  // of a byte to one deviation: it holds 4.5 of them

std::string text_of(const Bytes& bytes) { return base64(bytes.data(), bytes.size()); }

/// Four digits are more than a page shows.
double rounded(double share) { return std::round(1e4 * share) / 1e4; }

/// The folder of a checkpoint's run, or the file's name if it lies elsewhere.
std::string name_of(const std::filesystem::path& checkpoint) {
  const std::filesystem::path folder =
      std::filesystem::absolute(checkpoint).lexically_normal().parent_path();
  return folder.filename() == "checkpoint" ? folder.parent_path().filename().string()
                                           : checkpoint.stem().string();
}

json describe_images(const Sample& sample, const moxie::NoiseSweep& sweep) {
  const ImageShape& shape = sample.images.shape;
  json out = json::array();
  Bytes direction(to_size(shape.values()));
  for (Index i = 0; i < sample.images.count; ++i) {
    const std::int32_t number = sample.numbers[to_size(i)];
    for (Index v = 0; v < shape.values(); ++v) {
      const double steps = std::round(direction_steps * sweep.direction(number, v));
      direction[to_size(v)] =
          static_cast<std::uint8_t>(static_cast<std::int8_t>(std::clamp(steps, -127.0, 127.0)));
    }
    out.push_back({{"number", number},
                   {"label", sample.images.labels[to_size(i)]},
                   {"pixels", base64(sample.images.image(i), to_size(shape.values()))},
                   {"direction", text_of(direction)}});
  }
  return out;
}

/// The experts of one image's patches, without those of a class token.
TokenExperts patches_of(const TokenExperts& all, Index image, const moxie::VitConfig& vit) {
  const Index from = image * vit.tokens() + (vit.class_token() ? 1 : 0);
  const Index to = (image + 1) * vit.tokens();
  const Index begin = all.first[to_size(from)];
  const Index end = all.first[to_size(to)];
  TokenExperts out;
  out.expert.assign(all.expert.begin() + begin, all.expert.begin() + end);
  out.served.assign(all.served.begin() + begin, all.served.begin() + end);
  for (Index t = from + 1; t <= to; ++t) out.first.push_back(all.first[to_size(t)] - begin);
  return out;
}

/// One MoE layer along the sweep, level by level.
class LayerRecord {
 public:
  LayerRecord(Index block, Index experts, Index images)
      : block_(block), wide_(experts > 127), changes_(to_size(images)) {}

  void add(const std::vector<TokenExperts>& clean, const std::vector<TokenExperts>& own) {
    for (std::size_t i = 0; i < own.size(); ++i) {
      add_patches(own[i]);
      const moxie::RoutingChange change = moxie::routing_change(clean[i], own[i]);
      changes_[i][0].push_back(rounded(change.top1));
      changes_[i][1].push_back(rounded(change.set));
      changes_[i][2].push_back(rounded(change.iou));
    }
  }
  json to_json() const {
    json out = {{"block", block_}, {"wide", wide_}, {"experts", text_of(experts_)}};
    if (std::adjacent_find(counts_.begin(), counts_.end(), std::not_equal_to<>()) == counts_.end())
      out["count"] = counts_.front();
    else
      out["counts"] = text_of(counts_);
    for (std::size_t kind = 0; kind < 3; ++kind) {
      json& change = out["change"][std::array{"top1", "set", "iou"}[kind]];
      for (const auto& image : changes_) change.push_back(image[kind]);
    }
    return out;
  }

 private:
  /// An expert is its number and, in the top bit, whether it does not serve the patch.
  void add_patches(const TokenExperts& patches) {
    constexpr Index most = 255;  // of a patch: the page names no more
    for (Index p = 0; p < patches.tokens(); ++p) {
      const auto experts = patches.experts(p);
      const Index count = std::min(static_cast<Index>(experts.size()), most);
      counts_.push_back(static_cast<std::uint8_t>(count));
      for (Index i = 0; i < count; ++i) {
        const auto number = static_cast<std::uint32_t>(experts[to_size(i)]);
        const std::uint32_t idle = patches.is_served(p, i) ? 0 : 0x80;
        experts_.push_back(static_cast<std::uint8_t>((wide_ ? number >> 8U : number) | idle));
        if (wide_) experts_.push_back(static_cast<std::uint8_t>(number & 0xffU));
      }
    }
  }

  Index block_;
  bool wide_;
  Bytes counts_, experts_;
  std::vector<std::array<std::vector<double>, 3>> changes_;  // [image][kind][level]
};

json measure(const Checkpoint& checkpoint, const Sample& sample, const ComparisonRequest& request) {
  Subject subject(checkpoint, sample, request.threads);
  const moxie::VitConfig& vit = subject.vit();
  const Options& o = subject.options();
  const Index images = sample.images.count;
  const auto patches = [&](const TokenExperts& all) {
    std::vector<TokenExperts> out;
    for (Index i = 0; i < images; ++i) out.push_back(patches_of(all, i, vit));
    return out;
  };
  std::vector<std::vector<TokenExperts>> clean;  // [layer][image]
  std::vector<LayerRecord> layers;
  std::vector<std::vector<double>> probability(to_size(images));
  std::vector<std::vector<std::int32_t>> prediction(to_size(images));
  for (Index level = 0; level <= request.sweep.levels; ++level) {
    const Answer own = subject.answer(request.sweep, level);
    for (std::size_t l = 0; l < own.layers.size(); ++l) {
      const std::vector<TokenExperts> here = patches(own.layers[l]);
      if (level == 0) {
        layers.emplace_back(vit.moe_blocks[l], o.experts, images);
        clean.push_back(here);
      }
      layers[l].add(clean[l], here);
    }
    for (std::size_t i = 0; i < probability.size(); ++i) {
      probability[i].push_back(rounded(own.probability[i]));
      prediction[i].push_back(own.prediction[i]);
    }
  }
  json out = {{"name", name_of(checkpoint.file)},
              {"step", checkpoint.info.step},
              {"patch", vit.patch},
              {"grid", {vit.grid().down, vit.grid().across}},
              {"probability", probability},
              {"prediction", prediction},
              {"layers", json::array()}};
  for (const LayerRecord& layer : layers) out["layers"].push_back(layer.to_json());
  if (!layers.empty()) {
    out["router"] = o.router;
    out["experts"] = o.experts;
    out["k"] = o.k;
    out["prc"] = o.prc;
  }
  return out;
}

}  // namespace

json compare_models(const ComparisonRequest& request) {
  const char* const who = "vmoe report";
  const std::size_t wanted = request.checkpoints.size();
  if (wanted < 2 || wanted > most_compared)
    moxie::throw_config(who, ": ", wanted, " models came, expected 2 to ", most_compared,
                        " to compare");
  check_sweep(who, request.sweep);
  const std::vector<Checkpoint> checkpoints = read_checkpoints(who, request.checkpoints);
  const Sample sample =
      draw_sample(who, checkpoints, request.data, request.images, request.sweep.seed);
  if (sample.images.count > most_pictured)
    moxie::throw_config(who, ": images is ", sample.images.count, ", expected 1 to ", most_pictured,
                        " for a page");
  const ImageShape& shape = sample.images.shape;
  const std::filesystem::path source = test_data_path(checkpoints, request.data);
  json out = {{"data", (source.has_filename() ? source : source.parent_path()).filename().string()},
              {"classes", sample.classes},
              {"height", shape.height},
              {"width", shape.width},
              {"channels", shape.channels},
              {"seed", request.sweep.seed},
              {"levels", request.sweep.levels},
              {"noise", request.sweep.largest},
              {"direction_steps", direction_steps},
              {"images", describe_images(sample, request.sweep)},
              {"models", json::array()}};
  for (const Checkpoint& c : checkpoints) out["models"].push_back(measure(c, sample, request));
  return out;
}

}  // namespace vmoe
