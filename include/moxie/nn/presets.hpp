#pragma once

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/nn/placement.hpp"
#include "moxie/nn/vit_config.hpp"

namespace moxie {

/// A named vision transformer: sizes, patch, pooling, placement of the experts.
struct VitPreset {
  std::string_view name;
  std::string_view what;
  VitConfig config;
};

/// All presets. Sizes: V-MoE (vmoe-*), PRC (prc-t), the Soft MoE family (ti s b l h), which expert
/// choice shares, and ours for a CPU and 32 x 32 images (nano). Published ones read 224 x 224
/// images, give 1000 classes, and start the head for a sigmoid loss. Experts stand where the papers
/// put them; take `moe_blocks` out for a dense model.
inline std::vector<VitPreset> vit_presets() {
  struct Sizes {
    std::string_view name, what;
    Index patch, width, blocks, hidden, heads;
    Pooling pooling;
    std::vector<Index> moe_blocks;
  };
  std::vector<VitPreset> out;
  out.push_back({"nano", "ours: 32 x 32 images on a CPU", {.moe_blocks = last_n(2, 4)}});
  for (const Sizes& s : std::vector<Sizes>{
           {"vmoe-s", "V-MoE S/32", 32, 512, 8, 2048, 8, Pooling::token, last_n(2, 8)},
           {"vmoe-b", "V-MoE B/16", 16, 768, 12, 3072, 12, Pooling::token, every_n(2, 12)},
           {"vmoe-l", "V-MoE L/16", 16, 1024, 24, 4096, 16, Pooling::token, every_n(2, 24)},
           {"vmoe-h", "V-MoE H/14", 14, 1280, 32, 5120, 16, Pooling::token, every_n(2, 32)},
           {"prc-t", "PRC T/32", 32, 384, 8, 1024, 4, Pooling::token, last_n(2, 8)},
           {"ti", "Soft MoE Ti/16", 16, 192, 12, 768, 3, Pooling::mean, consecutive_last(6, 12)},
           {"s", "Soft MoE S/16", 16, 384, 12, 1536, 6, Pooling::mean, consecutive_last(6, 12)},
           {"b", "Soft MoE B/16", 16, 768, 12, 3072, 12, Pooling::mean, consecutive_last(6, 12)},
           {"l", "Soft MoE L/16", 16, 1024, 24, 4096, 16, Pooling::mean, consecutive_last(12, 24)},
           {"h", "Soft MoE H/14", 14, 1280, 32, 5120, 16, Pooling::mean, consecutive_last(16, 32)},
       })
    out.push_back({s.name,
                   s.what,
                   {.image_height = 224,
                    .image_width = 224,
                    .patch = s.patch,
                    .width = s.width,
                    .blocks = s.blocks,
                    .heads = s.heads,
                    .hidden = s.hidden,
                    .classes = 1000,
                    .pooling = s.pooling,
                    .moe_blocks = s.moe_blocks,
                    .head_bias = -std::log(1000.0)}});
  return out;
}

/// The preset of that name, ready to be changed.   @throws config_error listing the names there are
inline VitConfig vit_preset(std::string_view name) {
  std::string names;
  for (const VitPreset& p : vit_presets()) {
    if (p.name == name) return p.config;
    names += (names.empty() ? "" : ", ") + std::string(p.name);
  }
  throw_config("moxie::vit_preset: name is '", name, "', expected one of: ", names);
}

}  // namespace moxie
