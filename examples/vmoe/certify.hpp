#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moxie/core/view.hpp"

namespace vmoe {

/// What `vmoe certify` does.
struct CertifyRequest {
  std::filesystem::path checkpoint;  ///< or a run, for its newest
  std::string data;                  ///< empty: what the model was trained beside
  moxie::Index images = 1000;        ///< of the test images, drawn by the seed; 0: all
  std::uint64_t seed = 0;
  std::string about_images;  ///< a flag about them that was given, if one was
  std::vector<double> radii{0.5 / 255, 1.0 / 255, 2.0 / 255, 4.0 / 255, 8.0 / 255};  ///< L-infinity
};

/// Whether the certificates of robust/certificate.hpp hold for a checkpoint, and at each radius the
/// share of test images that they cover, with the label of each number. For a vision transformer they
/// do not hold: then no image is read, shares are null, reasons say why, and there are formal bounds
/// of what has one: gates and experts of each MoE layer as maps of the layer's own input.
/// @throws moxie::config_error for a radius that is not above 0, for a flag about images where none
/// is read, and as draw_sample
nlohmann::json certify(const CertifyRequest& request);

/// @throws moxie::config_error naming a radius that is not finite and above 0
void check_radii(const char* who, const std::vector<double>& radii);

/// Shares at each radius (ImageCertificates::shares) as lines for a terminal.
std::string shares_text(const nlohmann::json& radii);

/// The figures as lines for a terminal.
std::string certify_text(const nlohmann::json& figures);

}  // namespace vmoe
