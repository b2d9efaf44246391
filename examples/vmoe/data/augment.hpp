#pragma once

#include <cstdint>
#include <span>

#include "image_set.hpp"
#include "moxie/core/random.hpp"

namespace vmoe {

/// Random changes of single training images.
struct Augmentation {
  Index crop_padding = 4;  ///< pixels of border before the crop back to the size; 0 = no crop
  bool flip = true;        ///< left and right exchanged, half of the time
};

/// Where the image is looked at: pixel (y, x) of the result is pixel (y + down, x + right) of the
/// image, mirrored within the result if `mirrored`.
struct Window {
  Index down = 0;
  Index right = 0;
  bool mirrored = false;

  friend bool operator==(const Window&, const Window&) = default;
};

/// The window of the image at `position` of the epoch that `random` is keyed by.
Window draw_window(const Augmentation& augmentation, const moxie::Random& random,
                   std::uint64_t position);

/// Writes one image as floats, height * width * out_channels, channels innermost. Outside of the
/// image is 0, the mean after normalisation. Grey images may become 3 equal channels.
/// @param table  of normalization_table()
void render(const std::uint8_t* image, const ImageShape& shape, const Window& window,
            std::span<const float> table, Index out_channels, float* out);

}  // namespace vmoe
