#pragma once

#include <cstdint>
#include <span>

#include "image_set.hpp"

namespace vmoe {

/// One image that is changed in place.
struct Pixels {
  std::span<std::uint8_t> values;  ///< [height, width, channels]
  ImageShape shape;
};

}  // namespace vmoe
