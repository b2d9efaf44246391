#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moxie/robust/noise_sweep.hpp"

namespace vmoe {

/// The models, images and noise of a page that compares models.
struct ComparisonRequest {
  std::vector<std::filesystem::path> checkpoints;  ///< or runs, for their newest
  std::string data;                                ///< empty: what the first was trained beside
  moxie::Index images = 12;  ///< of the test images, those that `measure_stability` draws; 0: all
  moxie::NoiseSweep sweep{.levels = 50};
  moxie::Index threads = 0;
};

inline constexpr std::size_t most_compared = 8;     ///< models that a page can tell apart
inline constexpr moxie::Index most_pictured = 500;  ///< images of a page

/// What the page of `comparison_page` shows: the images with their directions of noise; for every
/// model, image and level the true class's probability, the prediction, and in every MoE layer the
/// experts of each patch and the routing change since level 0, of patches without a class token. The
/// same figures as those of `measure_stability`, whatever the number of threads.
///
/// Sizes: a byte a patch, layer, level and image for each expert (two if a model has more than 127
/// experts), and one more where their number differs between patches; two bytes a pixel and channel,
/// for directions are rounded to 1/28 of the noise's deviation: what is shown differs from what the
/// models saw by at most 1/56 of that. Then a third more for base64.
/// @throws moxie::config_error for less than two models or more than `most_compared`, more images
/// than `most_pictured`, models made for images of different shape or classes, a sweep without noise
/// or levels
nlohmann::json compare_models(const ComparisonRequest& request);

}  // namespace vmoe
