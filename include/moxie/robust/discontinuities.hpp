#pragma once

#include <span>

#include "moxie/core/view.hpp"

namespace moxie {

/// How often a probability jumps along a sweep: steps from one value to the next by more than
/// `threshold`, up or down.   Source: the figure of Pairwise Router Consistency, steps of 1/400.
inline Index discontinuities(std::span<const double> probabilities, double threshold = 0.25) {
  Index count = 0;
  for (std::size_t j = 1; j < probabilities.size(); ++j) {
    const double step = probabilities[j] - probabilities[j - 1];
    count += step > threshold || step < -threshold ? 1 : 0;
  }
  return count;
}

}  // namespace moxie
