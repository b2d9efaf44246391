#include "rand_augment.hpp"

#include <algorithm>
#include <cmath>

#include "photometric.hpp"
#include "warp.hpp"

namespace vmoe {
namespace {

constexpr std::uint8_t outside = 128;
constexpr double published_size = 224;

/// Pixels of an image of the published size as pixels of one of `size`.
double pixels_of(double published, Index size) {
  return std::round(published * static_cast<double>(size) / published_size);
}

/// A square about a random pixel, as far as it lies within the image.
void cut_out(const Pixels& image, double strength, Draws& draws) {
  const ImageShape& s = image.shape;
  const auto half_y = static_cast<Index>(pixels_of(strength * 40, s.height));
  const auto half_x = static_cast<Index>(pixels_of(strength * 40, s.width));
  const Index y = draws.below(s.height);
  const Index x = draws.below(s.width);
  const Index left = std::max<Index>(x - half_x, 0);
  const Index right = std::min(x + half_x, s.width);
  for (Index row = std::max<Index>(y - half_y, 0); row < std::min(y + half_y, s.height); ++row) {
    std::uint8_t* const first = image.values.data() + row * s.width * s.channels;
    std::fill(first + left * s.channels, first + right * s.channels, outside);
  }
}

}  // namespace

moxie::ViewMap RandAugment::apply(Operation operation, bool negative, const Pixels& image,
                                  Draws& draws) const {
  const ImageShape& s = image.shape;
  const double strength = magnitude / 10;
  const double sign = negative ? -1 : 1;
  const double factor = 1.8 * strength + 0.1;
  const auto move = [&](const moxie::ViewMap& map) {
    warp(image, map, outside);
    return map;
  };
  switch (operation) {
    case Operation::identity:
      break;
    case Operation::auto_contrast:
      auto_contrast(image);
      break;
    case Operation::equalize:
      equalize(image);
      break;
    case Operation::invert:
      invert(image);
      break;
    case Operation::posterize:
      posterize(image, std::clamp(static_cast<int>(4 * strength), 0, 8));
      break;
    case Operation::solarize:
      solarize(image, static_cast<int>(256 * strength));
      break;
    case Operation::solarize_add:
      solarize_add(image, static_cast<int>(110 * strength));
      break;
    case Operation::color:
      saturate(image, factor);
      break;
    case Operation::contrast:
      contrast(image, factor);
      break;
    case Operation::brightness:
      brighten(image, factor);
      break;
    case Operation::sharpness:
      sharpen(image, factor);
      break;
    case Operation::cutout:
      cut_out(image, strength, draws);
      break;
    case Operation::rotate:
      return move(moxie::ViewMap::rotation(sign * 30 * strength, static_cast<double>(s.height),
                                           static_cast<double>(s.width)));
    case Operation::shear_x:
      return move(moxie::ViewMap::shear_x(sign * 0.3 * strength));
    case Operation::shear_y:
      return move(moxie::ViewMap::shear_y(sign * 0.3 * strength));
    case Operation::translate_x:
      return move(moxie::ViewMap::translation(0, sign * pixels_of(100 * strength, s.width)));
    case Operation::translate_y:
      return move(moxie::ViewMap::translation(sign * pixels_of(100 * strength, s.height), 0));
  }
  return {};
}

moxie::ViewMap RandAugment::operator()(const Pixels& image, Draws& draws) const {
  moxie::ViewMap map;
  for (Index i = 0; i < count; ++i) {
    const auto operation = static_cast<Operation>(draws.below(operations));
    const bool negative = draws.coin();
    map = apply(operation, negative, image, draws) * map;
  }
  return map;
}

}  // namespace vmoe
