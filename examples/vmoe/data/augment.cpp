#include "augment.hpp"

#include <algorithm>

namespace vmoe {
namespace {

/// The number of channels is a constant, so that the inner loop has no branches.
template <Index in_channels, Index out_channels>
void render_rows(const std::uint8_t* image, const ImageShape& shape, const Window& window,
                 const float* table, float* out) {
  // Columns of the image that are seen: the others are border.
  const Index first = std::clamp<Index>(window.right, 0, shape.width);
  const Index last = std::clamp<Index>(shape.width + window.right, 0, shape.width);
  const Index row_values = shape.width * out_channels;
  for (Index y = 0; y < shape.height; ++y, out += row_values) {
    const Index from = y + window.down;
    if (from < 0 || from >= shape.height || first >= last) {
      std::fill(out, out + row_values, 0.0F);
      continue;
    }
    const Index left = window.mirrored ? shape.width - (last - window.right) : first - window.right;
    const Index seen = last - first;
    std::fill(out, out + left * out_channels, 0.0F);
    const std::uint8_t* in = image + (from * shape.width + first) * in_channels;
    float* to = out + (window.mirrored ? left + seen - 1 : left) * out_channels;
    const Index step = window.mirrored ? -out_channels : out_channels;
    for (Index x = 0; x < seen; ++x, in += in_channels, to += step)
      for (Index c = 0; c < out_channels; ++c)
        to[c] = in_channels == 1 ? table[in[0]] : table[c * 256 + in[c]];
    std::fill(out + (left + seen) * out_channels, out + row_values, 0.0F);
  }
}

}  // namespace

Window draw_window(const Augmentation& augmentation, const moxie::Random& random,
                   std::uint64_t position) {
  const auto shift = [&](std::uint64_t draw) {
    const auto places = static_cast<std::uint64_t>(2 * augmentation.crop_padding + 1);
    return static_cast<Index>((std::uint64_t{random.bits(position, draw)} * places) >> 32U) -
           augmentation.crop_padding;
  };
  Window window;
  if (augmentation.crop_padding > 0) {
    window.down = shift(0);
    window.right = shift(1);
  }
  window.mirrored = augmentation.flip && (random.bits(position, 2) >> 31U) != 0U;
  return window;
}

void render(const std::uint8_t* image, const ImageShape& shape, const Window& window,
            std::span<const float> table, Index out_channels, float* out) {
  if (shape.channels == 3) {
    render_rows<3, 3>(image, shape, window, table.data(), out);
  } else if (out_channels == 3) {
    render_rows<1, 3>(image, shape, window, table.data(), out);
  } else {
    render_rows<1, 1>(image, shape, window, table.data(), out);
  }
}

}  // namespace vmoe
