#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "attack_choice.hpp"
#include "moxie/core/view.hpp"
#include "moxie/robust/metrics.hpp"

namespace vmoe {

/// What `vmoe attack` does.
struct AttackRequest {
  std::filesystem::path checkpoint;  ///< or a run, for its newest
  std::string data;                  ///< empty: what the model was trained beside
  AttackChoice attack{};
  moxie::PartMode definition = moxie::PartMode::isolated;  ///< of RA-E and RA-R
  moxie::Index images = 1000;  ///< of the test images, drawn by the seed; 0: all
  std::uint64_t seed = 0;      ///< of images and attacks
  moxie::Index batch = 64;     ///< images that are attacked together; no influence on the result
  moxie::Index threads = 0;
  moxie::Index pictures = 0;  ///< of points that fell, for a report
};

struct AttackResult {
  bool interrupted = false;  ///< then there is nothing else
  /// SA, RA, RA-E, RA-R, members, routing change, margins: docs/robustness.md says what they are.
  nlohmann::json figures;
  nlohmann::json pictures;  ///< for write_attack_report
};

/// Attacks a trained model in evaluation mode, each image in a group of its own: none takes the
/// place of another. Shows its progress; Ctrl-C ends it.
/// @throws moxie::config_error for a request that makes no sense or does not fit the model
AttackResult attack(const AttackRequest& request);

/// The figures as lines for a terminal.
std::string attack_text(const nlohmann::json& figures);

}  // namespace vmoe
