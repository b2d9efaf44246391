#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "augment.hpp"
#include "image_set.hpp"
#include "moxie/core/random.hpp"
#include "moxie/vision/image_view.hpp"
#include "rand_augment.hpp"

namespace vmoe {

/// How a view of an image is made.
struct ViewRecipe {
  enum class Kind {
    light,  ///< for small images: the padded crop and flip of `augmentation`
    crop,   ///< for small images: a crop of 60 to 100 % of the area, resized; flip
    /// Pairwise Router Consistency's pre-training: a crop of 5 to 100 % of the area, resized; flip;
    /// RandAugment
    paper
  };
  Kind kind = Kind::light;
  Augmentation augmentation{};  ///< `flip` counts for all kinds
  /// Strength j of colour jitter, in [0, 1]; 0 = none: brightness, contrast and saturation times
  /// U(1 - j, 1 + j), in this order, before anything else.
  double jitter = 0;
  RandAugment rand_augment{};  ///< of `paper`
};

/// "light", "crop", "paper".   @throws moxie::config_error
ViewRecipe::Kind view_kind(std::string_view name);

/// A random box of whole pixels with this share of the image's area, and between 3:4 and 4:3; the
/// whole image if none is found. Source: "inception-style" crops of Szegedy et al., 2015.
moxie::ImageBox draw_crop(double least_area, double most_area, const ImageShape& shape,
                          Draws& draws);

/// Makes view `view` of the image at `position` of the epoch that `random` is keyed by, as inputs
/// (render), and says where it looks. A box of `light` holds only what lies within the image.
moxie::ImageView make_view(const ViewRecipe& recipe, const moxie::Random& random,
                           std::uint64_t position, std::uint64_t view, const std::uint8_t* image,
                           const ImageShape& shape, std::span<const float> table,
                           Index out_channels, float* out);

/// Where a window looks.
moxie::ImageView view_of(const Window& window, const ImageShape& shape);

}  // namespace vmoe
