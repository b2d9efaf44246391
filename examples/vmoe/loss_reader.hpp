#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "metrics_window.hpp"
#include "model.hpp"

namespace vmoe {

/// Adds up the losses of each regularizer over the MoE layers that it visits.
class LossReader final : public moxie::RoutingVisitor<Backend> {
 public:
  /// `prefix` stands before the names.
  explicit LossReader(std::string prefix = {}) : prefix_(std::move(prefix)) {}

  void loss_parts(std::span<const std::string_view> names,
                  moxie::ConstVector<Backend> values) override;

  LossSums sums;

 private:
  std::string prefix_;
};

}  // namespace vmoe
