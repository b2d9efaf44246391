#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moxie/routing/statistics.hpp"

namespace vmoe {

/// Weighted losses by the names of the regularizers.
using LossSums = std::map<std::string, double>;

/// Sums over the training steps since the last line of metrics. A checkpoint keeps them, so that a
/// resumed run writes the lines of one that never stopped.
struct MetricsWindow {
  double steps = 0;
  double images = 0;
  double loss = 0;  ///< mean of each step, without regularizers
  double regularizers = 0;
  double correct = 0;
  double chosen = 0;   ///< assignments of tokens to experts
  double dropped = 0;  ///< of them, without a slot
  double began = 0;    ///< seconds of training before the first step
  LossSums losses{};   ///< of each regularizer, all layers together

  void add(double step_loss, double step_correct, double step_images,
           const std::vector<moxie::RoutingStatistics>& layers, const LossSums& step_losses);

  double mean_loss() const { return loss / steps; }
  double mean_regularizers() const { return regularizers / steps; }
  /// Of each regularizer.
  LossSums mean_losses() const;
  double accuracy() const { return correct / images; }
  double dropped_share() const { return chosen > 0 ? dropped / chosen : 0; }
};

void to_json(nlohmann::json& json, const MetricsWindow& window);
void from_json(const nlohmann::json& json, MetricsWindow& window);

}  // namespace vmoe
