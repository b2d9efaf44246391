#include "vmoe_report/fake_comparison.hpp"

#include <cmath>
#include <cstdint>

#include "vmoe/report/base64.hpp"

namespace fake {
namespace {

std::string text(const std::vector<std::uint8_t>& bytes) {
  return vmoe::base64(bytes.data(), bytes.size());
}

int patches_of(const Comparison& wanted, const ComparedModel& model) {
  const int cells = wanted.side / model.patch;
  return cells * cells;
}

int first_expert(const ComparedModel& model, int level, int p) {
  return (p + (level + p) / model.every - p / model.every) % model.experts;
}

Json layer_of(const Comparison& wanted, const ComparedModel& model, int block) {
  const int patches = patches_of(wanted, model);
  const bool wide = model.experts > 127;
  std::vector<std::uint8_t> experts, counts;
  for (int level = 0; level <= wanted.levels; ++level)
    for (int image = 0; image < wanted.images; ++image)
      for (int p = 0; p < patches; ++p) {
        const int count = model.ragged ? p % 4 : model.choices;
        counts.push_back(static_cast<std::uint8_t>(count));
        for (int c = 0; c < count; ++c) {
          const int expert = (first_expert(model, level, p) + c) % model.experts;
          const int idle = p % 13 == c ? 128 : 0;
          experts.push_back(static_cast<std::uint8_t>((wide ? expert / 256 : expert) + idle));
          if (wide) experts.push_back(static_cast<std::uint8_t>(expert % 256));
        }
      }
  Json changes = Json::array();
  for (int level = 0; level <= wanted.levels; ++level)
    changes.push_back(static_cast<double>(changed_patches(wanted, model, level)) / patches);
  Json layer = {{"block", block}, {"wide", wide}, {"experts", text(experts)}};
  if (model.ragged)
    layer["counts"] = text(counts);
  else
    layer["count"] = model.choices;
  for (const char* kind : {"top1", "set", "iou"})
    layer["change"][kind] = std::vector<Json>(static_cast<std::size_t>(wanted.images), changes);
  return layer;
}

}  // namespace

int changed_patches(const Comparison& wanted, const ComparedModel& model, int level) {
  int changed = 0;
  for (int p = 0; p < patches_of(wanted, model); ++p) {
    const bool none = model.ragged && p % 4 == 0;
    if (!none && first_expert(model, level, p) != first_expert(model, 0, p)) ++changed;
  }
  return changed;
}

Json comparison(const Comparison& wanted) {
  Json out = {{"data", "images.tar.xz"},     {"classes", wanted.classes},
              {"height", wanted.side},       {"width", wanted.side},
              {"channels", wanted.channels}, {"seed", 7},
              {"levels", wanted.levels},     {"noise", 0.25},
              {"direction_steps", 28},       {"images", Json::array()},
              {"models", Json::array()}};
  const auto values = static_cast<std::size_t>(wanted.side * wanted.side * wanted.channels);
  for (int i = 0; i < wanted.images; ++i) {
    std::vector<std::uint8_t> pixels(values), direction(values);
    for (std::size_t v = 0; v < values; ++v) {
      pixels[v] = static_cast<std::uint8_t>(v / 16 + 40 * static_cast<std::size_t>(i));
      direction[v] = static_cast<std::uint8_t>(v * 37 % 256);
    }
    out["images"].push_back({{"number", 11 * i},
                             {"label", i % static_cast<int>(wanted.classes.size())},
                             {"pixels", text(pixels)},
                             {"direction", text(direction)}});
  }
  for (const ComparedModel& model : wanted.models) {
    const int cells = wanted.side / model.patch;
    Json probability = Json::array(), prediction = Json::array();
    for (int i = 0; i < wanted.images; ++i) {
      Json p = Json::array(), c = Json::array();
      for (int level = 0; level <= wanted.levels; ++level) {
        p.push_back(0.9 * std::exp(-0.1 * level * (i + 1) / model.every));
        c.push_back(level < wanted.levels / 2 ? i % static_cast<int>(wanted.classes.size()) : 0);
      }
      probability.push_back(p);
      prediction.push_back(c);
    }
    Json own = {{"name", model.name},         {"step", 1200},
                {"patch", model.patch},       {"grid", {cells, cells}},
                {"probability", probability}, {"prediction", prediction},
                {"layers", Json::array()}};
    for (const int block : model.moe_blocks)
      own["layers"].push_back(layer_of(wanted, model, block));
    if (!model.moe_blocks.empty()) {
      own["router"] = model.ragged ? "softmax_expert_choice" : "softmax_token_choice";
      own["experts"] = model.experts;
      own["k"] = model.choices;
      own["prc"] = model.name == "consistent" ? 0.1 : 0.0;
    }
    out["models"].push_back(own);
  }
  return out;
}

}  // namespace fake
