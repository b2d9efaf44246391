#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moxie/robust/pgd.hpp"
#include "options.hpp"

namespace vmoe {

/// What `vmoe dual` does.
struct DualRequest {
  std::filesystem::path standard;  ///< or a run, for its newest; a dual model if `robust` is empty
  std::filesystem::path robust;
  std::string data;  ///< empty: what the first was trained beside
  std::vector<double> alphas{0.5, 0.6, 0.7, 0.8, 0.9, 1};
  std::vector<double> radii;  ///< L-infinity, certified at each alpha; empty: no certificates
  /// logit, log_probability, or probability, which is mixed and attacked through its logarithm;
  /// empty: that of the dual model, of two models logit
  std::string space;
  moxie::Pgd attack{.steps = 50};
  Index images = 1000;  ///< of the test images, drawn by the seed; 0: all
  std::uint64_t seed = 0;
  Index threads = 0;
  std::string csv;         ///< file of the sweep; empty: none
  std::string checkpoint;  ///< where the dual model goes, with the options' alpha; empty: nowhere
  double alpha = 0.7;      ///< of that checkpoint
};

/// The trade-off curve of a dual model, or of two models as one: SA and RA at each mixing weight, and
/// with `radii` the certified shares (ImageCertificates).
/// @throws moxie::config_error unless the models are mixtures of whole networks of one shape,
/// trained on the same images
nlohmann::json sweep_dual(const DualRequest& request);

/// The figures as lines for a terminal.
std::string dual_text(const nlohmann::json& figures);

}  // namespace vmoe
