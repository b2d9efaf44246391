#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moxie/core/view.hpp"

namespace vmoe {

using moxie::Index;

constexpr std::size_t to_size(Index value) { return static_cast<std::size_t>(value); }

struct ImageShape {
  Index height = 0;
  Index width = 0;
  Index channels = 0;

  constexpr Index values() const { return height * width * channels; }
  friend constexpr bool operator==(const ImageShape&, const ImageShape&) = default;
};

/// Decoded images of one size with their labels, in the order of the data.
struct ImageSet {
  Index count = 0;
  ImageShape shape;
  std::vector<std::uint8_t> pixels;  ///< [count, height, width, channels]
  std::vector<std::int32_t> labels;  ///< [count], each an index into the class names

  const std::uint8_t* image(Index i) const { return pixels.data() + i * shape.values(); }
};

}  // namespace vmoe
