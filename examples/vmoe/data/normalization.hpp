#pragma once

#include <vector>

#include "image_set.hpp"

namespace vmoe {

/// What makes pixels to inputs: (v / 255 - mean[c]) / std_dev[c], v in 0..255, c a channel of the
/// data.
struct Normalization {
  std::vector<double> mean;
  std::vector<double> std_dev;

  friend bool operator==(const Normalization&, const Normalization&) = default;
};

/// Mean and standard deviation of each channel over all pixels of a set, exact up to the last
/// division. A channel that is the same everywhere gets deviation 1, so that it becomes 0 and not
/// NaN.
/// @throws moxie::config_error if the set is empty.
Normalization measure_normalization(const ImageSet& set);

/// The input for every value of every channel: 256 floats a channel. A table instead of arithmetic,
/// so that inputs have the same bits whatever the compiler fuses.
/// @throws moxie::config_error if there is not one mean and one positive deviation for each
/// channel.
std::vector<float> normalization_table(const Normalization& normalization, Index channels);

}  // namespace vmoe
