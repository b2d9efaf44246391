#pragma once

#include <cstdint>
#include <vector>

#include "moxie/robust/pgd.hpp"
#include "subject.hpp"

namespace vmoe {

/// The last iterates of `pgd` on all images of the sample, whether they fool the model or not: pixels
/// [images, height * width * channels] from 0 to 1. The random start of an image depends on the seed and
/// on its number among the test images of the sample.
/// @throws moxie::config_error for hyper-parameters that make no sense
std::vector<float> attacked_images(const Subject& subject, const Sample& sample,
                                   const moxie::Pgd& pgd, std::uint64_t seed);

}  // namespace vmoe
