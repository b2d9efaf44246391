#include "normalization.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "moxie/core/error.hpp"

namespace vmoe {

Normalization measure_normalization(const ImageSet& set) {
  if (set.count == 0)
    moxie::throw_config("vmoe::measure_normalization: 0 images came, expected at least 1");
  const std::size_t channels = to_size(set.shape.channels);
  std::vector<std::array<std::uint64_t, 256>> counts(channels);
  for (std::size_t i = 0; i < set.pixels.size(); i += channels)
    for (std::size_t c = 0; c < channels; ++c) ++counts[c][set.pixels[i + c]];

  Normalization out;
  for (const std::array<std::uint64_t, 256>& histogram : counts) {
    double number = 0;
    double sum = 0;
    for (std::size_t v = 0; v < 256; ++v) {
      number += static_cast<double>(histogram[v]);
      sum += static_cast<double>(histogram[v] * v);
    }
    const double mean = sum / number;
    double squares = 0;
    for (std::size_t v = 0; v < 256; ++v) {
      const double distance = static_cast<double>(v) - mean;
      squares += static_cast<double>(histogram[v]) * distance * distance;
    }
    out.mean.push_back(mean / 255);
    out.std_dev.push_back(squares > 0 ? std::sqrt(squares / number) / 255 : 1);
  }
  return out;
}

std::vector<float> normalization_table(const Normalization& normalization, Index channels) {
  if (static_cast<Index>(normalization.mean.size()) != channels ||
      static_cast<Index>(normalization.std_dev.size()) != channels) {
    moxie::throw_config("vmoe::normalization_table: ", normalization.mean.size(), " means and ",
                        normalization.std_dev.size(), " deviations came, expected ", channels,
                        " of each, one for each channel of the images");
  }
  std::vector<float> table;
  table.reserve(to_size(256 * channels));
  for (std::size_t c = 0; c < to_size(channels); ++c) {
    const double mean = normalization.mean[c];
    const double std_dev = normalization.std_dev[c];
    if (!std::isfinite(mean) || !(std_dev > 0) || !std::isfinite(std_dev)) {
      moxie::throw_config("vmoe::normalization_table: channel ", c, " has mean ", mean,
                          " and deviation ", std_dev, ", expected finite and > 0");
    }
    for (int v = 0; v < 256; ++v) table.push_back(static_cast<float>((v / 255.0 - mean) / std_dev));
  }
  return table;
}

}  // namespace vmoe
