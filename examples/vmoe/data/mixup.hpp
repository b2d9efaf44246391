#pragma once

#include <cstdint>

#include "moxie/core/random.hpp"

namespace vmoe {

/// Mixup: each image and its label are averaged with those of the next of the batch, with weights
/// from Dirichlet(c, c), the larger on the image itself. Source: Zhang et al., "mixup", ICLR 2018;
/// sorted weights and the roll by -1 as in V-MoE.
struct Mixup {
  enum class Granularity { batch, example };  ///< who shares a draw of the weights

  double concentration = 0;  ///< c; 0 = off, V-MoE takes 0.2 to 0.5
  Granularity granularity = Granularity::batch;

  bool on() const { return concentration > 0; }
};

/// The larger of two Dirichlet(c, c) weights, in [0.5, 1]; draw `index` of `random`.
double draw_mixup_weight(double concentration, const moxie::Random& random, std::uint64_t index);

}  // namespace vmoe
