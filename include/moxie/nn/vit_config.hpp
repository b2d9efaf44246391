#pragma once

#include <cstdint>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"
#include "moxie/nn/pooling.hpp"
#include "moxie/nn/position_embedding.hpp"

namespace moxie {

/// Sizes and parts of a vision transformer. Presets: nn/presets.hpp.
struct VitConfig {
  Index image_height = 32;
  Index image_width = 32;
  Index channels = 3;
  Index patch = 4;   ///< side of a patch; divides the image's sides
  Index width = 64;  ///< D of a token
  Index blocks = 4;
  Index heads = 4;     ///< divides width
  Index hidden = 128;  ///< of a block's perceptron
  Index classes = 10;
  Pooling pooling = Pooling::mean;  ///< Pooling::token adds a class token
  Positions positions = Positions::learned;
  std::vector<Index> moe_blocks{};  ///< blocks whose feed is made by the caller: nn/placement.hpp
  /// Start of the head's bias: 0 for a softmax loss; V-MoE starts at -ln(classes) for a sigmoid
  /// loss.
  double head_bias = 0;
  std::uint64_t seed = 0;  ///< of the initial parameters, if the Vit owns them

  constexpr Grid grid() const { return {image_height / patch, image_width / patch}; }
  constexpr bool class_token() const { return pooling == Pooling::token; }
  /// Tokens of an image, the class token among them.
  constexpr Index tokens() const { return grid().cells() + (class_token() ? 1 : 0); }
  /// Elements of an image: columns of what a Vit reads.
  constexpr Index pixels() const { return image_height * image_width * channels; }
  bool is_moe(Index block) const {
    for (const Index i : moe_blocks)
      if (i == block) return true;
    return false;
  }

  friend bool operator==(const VitConfig&, const VitConfig&) = default;
};

/// Checks all of it.   @throws config_error naming the argument, its value, and what was expected
inline void check(const VitConfig& c) {
  constexpr const char* who = "moxie::VitConfig";
  detail::require_positive(who, "image_height", c.image_height);
  detail::require_positive(who, "image_width", c.image_width);
  detail::require_positive(who, "channels", c.channels);
  detail::require_positive(who, "patch", c.patch);
  detail::require_positive(who, "width", c.width);
  detail::require_positive(who, "blocks", c.blocks);
  detail::require_positive(who, "heads", c.heads);
  detail::require_positive(who, "hidden", c.hidden);
  detail::require_positive(who, "classes", c.classes);
  if (c.image_height % c.patch != 0 || c.image_width % c.patch != 0)
    throw_config(who, ": patch is ", c.patch, ", expected a divisor of image_height ",
                 c.image_height, " and image_width ", c.image_width);
  if (c.width % c.heads != 0)
    throw_config(who, ": heads is ", c.heads, ", expected a divisor of width, which is ", c.width);
  if (c.positions == Positions::sincos2d && (c.width < 8 || c.width % 4 != 0))
    throw_config(who, ": width is ", c.width,
                 ", expected a multiple of 4, at least 8 (positions is sincos2d)");
  for (std::size_t i = 0; i < c.moe_blocks.size(); ++i) {
    if (c.moe_blocks[i] < 0 || c.moe_blocks[i] >= c.blocks)
      throw_config(who, ": moe_blocks holds ", c.moe_blocks[i], ", expected 0 to ", c.blocks - 1,
                   " (blocks is ", c.blocks, ")");
    for (std::size_t j = 0; j < i; ++j)
      if (c.moe_blocks[i] == c.moe_blocks[j])
        throw_config(who, ": moe_blocks holds ", c.moe_blocks[i],
                     " twice, expected each block once");
  }
}

}  // namespace moxie
