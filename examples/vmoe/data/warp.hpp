#pragma once

#include <cstdint>

#include "moxie/vision/view_map.hpp"
#include "pixels.hpp"

namespace vmoe {

/// `box` of an image, resized to its whole size: bilinear between the centres of pixels, without
/// looking beyond the box, rounded. `box` has whole numbers and lies within the image.
void crop_resize(const std::uint8_t* image, const moxie::ImageBox& box, const Pixels& out);

/// Moves what is seen by `map`: each pixel's centre is looked up where it came from, in the nearest
/// pixel; outside of the image is `fill`.   @throws moxie::config_error for a map without inverse
void warp(const Pixels& image, const moxie::ViewMap& map, std::uint8_t fill);

}  // namespace vmoe
