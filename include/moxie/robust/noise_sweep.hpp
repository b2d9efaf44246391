#pragma once

#include <cstdint>

#include "moxie/core/random.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// Images along Gaussian noise of growing strength, in one fixed direction n for each image:
/// x_j = clip(x + sigma_j n) to [0, 1], sigma_j = largest * j / levels, j = 0 to levels. What is
/// measured at neighbouring levels differs by a small step of the image alone, so a jump is the
/// model's. Source: the figure and the page of Pairwise Router Consistency.
struct NoiseSweep {
  double largest = 0.25;  ///< sigma of the last level; pixels are in [0, 1]
  Index levels = 10;      ///< beside the clean one; 100 makes curves
  std::uint64_t seed = 0;

  constexpr double sigma(Index level) const {
    return largest * static_cast<double>(level) / static_cast<double>(levels);
  }
  /// Element `element` of the direction of image `image`: N(0, 1).
  double direction(Index image, Index element) const {
    const Random random(seed, 0, stream_id("noise sweep"));
    return random.normal(static_cast<std::uint64_t>(image), static_cast<std::uint64_t>(element));
  }
  /// What becomes of that element, which was x in [0, 1].
  double operator()(double x, Index level, Index image, Index element) const {
    if (level == 0) return x;
    const double noisy = x + sigma(level) * direction(image, element);
    return noisy < 0 ? 0 : (noisy > 1 ? 1 : noisy);
  }
  friend constexpr bool operator==(const NoiseSweep&, const NoiseSweep&) = default;
};

}  // namespace moxie
