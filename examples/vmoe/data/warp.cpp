#include "warp.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace vmoe {
namespace {

/// Where pixel i of the result lies between two pixels of the box.
struct Between {
  Index lower, upper;
  double share;  // of the upper one
};
Between between(Index i, Index count, double first, double size) {
  const double at = (static_cast<double>(i) + 0.5) * size / static_cast<double>(count) - 0.5;
  const double inside = std::clamp(at, 0.0, size - 1);
  const double lower = std::floor(inside);
  const double upper = std::min(lower + 1, size - 1);
  return {static_cast<Index>(first + lower), static_cast<Index>(first + upper), inside - lower};
}

}  // namespace

void crop_resize(const std::uint8_t* image, const moxie::ImageBox& box, const Pixels& out) {
  const ImageShape& s = out.shape;
  std::vector<Between> columns;
  for (Index x = 0; x < s.width; ++x) columns.push_back(between(x, s.width, box.x, box.width));
  std::uint8_t* to = out.values.data();
  for (Index y = 0; y < s.height; ++y) {
    const Between row = between(y, s.height, box.y, box.height);
    const std::uint8_t* const above = image + row.lower * s.width * s.channels;
    const std::uint8_t* const below = image + row.upper * s.width * s.channels;
    for (const Between& column : columns) {
      for (Index c = 0; c < s.channels; ++c, ++to) {
        const Index left = column.lower * s.channels + c;
        const Index right = column.upper * s.channels + c;
        const double top = above[left] + column.share * (above[right] - above[left]);
        const double bottom = below[left] + column.share * (below[right] - below[left]);
        // Rounded a little above the half, for what is a half but for rounding.
        *to = static_cast<std::uint8_t>(top + row.share * (bottom - top) + 0.5 + 1e-9);
      }
    }
  }
}

void warp(const Pixels& image, const moxie::ViewMap& map, std::uint8_t fill) {
  const ImageShape& s = image.shape;
  const std::vector<std::uint8_t> in(image.values.begin(), image.values.end());
  const moxie::ViewMap back = map.inverse();
  std::uint8_t* to = image.values.data();
  for (Index y = 0; y < s.height; ++y)
    for (Index x = 0; x < s.width; ++x, to += s.channels) {
      const moxie::ImagePoint from =
          back({static_cast<double>(y) + 0.5, static_cast<double>(x) + 0.5});
      const bool inside = from.y >= 0 && from.y < static_cast<double>(s.height) && from.x >= 0 &&
                          from.x < static_cast<double>(s.width);
      if (!inside) {
        std::fill(to, to + s.channels, fill);
        continue;
      }
      const Index pixel = static_cast<Index>(from.y) * s.width + static_cast<Index>(from.x);
      std::copy_n(in.data() + pixel * s.channels, s.channels, to);
    }
}

}  // namespace vmoe
