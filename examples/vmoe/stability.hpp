#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moxie/robust/noise_sweep.hpp"

namespace vmoe {

/// What `vmoe stability` measures.
struct StabilityRequest {
  std::vector<std::filesystem::path> checkpoints;  ///< or runs, for their newest
  std::string data;                                ///< empty: what the first was trained beside
  moxie::Index images = 256;  ///< of the test images, drawn by the seed; 0: all
  moxie::NoiseSweep sweep{};  ///< its seed also draws images, crops and starts of PGD
  double pgd = 0;             ///< L-infinity radius of PGD, of pixels from 0 to 1; 0: none
  int pgd_steps = 10;         ///< of a quarter of the radius
  moxie::Index threads = 0;
};

/// How routes and predictions of trained models change with Gaussian noise, a crop (of 60 to 100 % of
/// the area, resized), a flip and, if asked for, PGD of the same test images: routing change by MoE
/// layer, class probabilities, discontinuities. Accuracy under PGD is of images that were right before
/// and after. Under a crop or a flip, the experts of a patch are compared with
/// those of the patch it came from. Models run in evaluation mode, each image in a group of its own.
/// @throws moxie::config_error if the models were made for images of different shape or classes, or
/// beside other images than the first and `data` is empty
nlohmann::json measure_stability(const StabilityRequest& request);

/// The figures as lines for a terminal: of the layers' routing changes the means.
std::string stability_text(const nlohmann::json& figures);

}  // namespace vmoe
