#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "metrics_window.hpp"
#include "model.hpp"

namespace vmoe {

/// Adds up the losses of each regularizer over the MoE layers that it visits. Blocks.
class LossReader final : public moxie::RoutingVisitor<Backend> {
 public:
  /// `prefix` stands before the names.
  explicit LossReader(Backend& backend, std::string prefix = {})
      : backend_(backend), prefix_(std::move(prefix)) {}

  void loss_parts(std::span<const std::string_view> names,
                  moxie::ConstVector<Backend> values) override;

  LossSums sums;

 private:
  Backend& backend_;
  std::string prefix_;
};

}  // namespace vmoe
