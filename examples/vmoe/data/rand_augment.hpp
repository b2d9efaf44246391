#pragma once

#include <cstdint>

#include "draws.hpp"
#include "moxie/vision/view_map.hpp"
#include "pixels.hpp"

namespace vmoe {

/// What RandAugment draws from, each as often as the others.
enum class Operation {
  identity,
  auto_contrast,
  equalize,
  invert,
  posterize,
  solarize,
  solarize_add,
  color,
  contrast,
  brightness,
  sharpness,
  cutout,
  rotate,
  shear_x,
  shear_y,
  translate_x,
  translate_y
};
inline constexpr Index operations = 17;

/// Some operations in a row, with what each did to the places of pixels. Strengths grow with the
/// magnitude M: at 10, rotation by 30 degrees, shear by 0.3, factors of 1.9 for colour, contrast,
/// brightness and sharpness, 4 bits, a threshold of 256 (which changes nothing) and an addition of
/// 110. Pixels are shares of the image's size that make a translation by 100 and a cutout of 80x80
/// at 224, rounded to whole ones. Signs are random; what comes in from outside is 128.
/// Source: Cubuk et al., "RandAugment", 2020, as in `autoaugment_R.py` of Pairwise Router Consistency.
struct RandAugment {
  Index count = 2;
  double magnitude = 10;

  /// Changes the image; the result is where its points are now.
  moxie::ViewMap operator()(const Pixels& image, Draws& draws) const;
  /// One operation of it. `negative` is the sign of a geometric one.
  moxie::ViewMap apply(Operation operation, bool negative, const Pixels& image, Draws& draws) const;

  friend bool operator==(const RandAugment&, const RandAugment&) = default;
};

}  // namespace vmoe
