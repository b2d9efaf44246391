#pragma once

#include <cstdint>

#include "dataset.hpp"

namespace vmoe {

/// Moves a share of the training images of each class to the test images, chosen by `seed`: the
/// nearest whole number, but at least 1, and never the last image of a class. Both keep the order
/// of the data.
/// @throws moxie::config_error if `share` is not in (0, 1) or no class has an image to spare.
void hold_out(Dataset& data, double share, std::uint64_t seed);

}  // namespace vmoe
