#pragma once

#include <span>
#include <string_view>

#include "metrics_window.hpp"
#include "model.hpp"

namespace vmoe {

/// Adds up the losses of each regularizer over the MoE layers that it visits.
class LossReader final : public moxie::RoutingVisitor<Backend> {
 public:
  void loss_parts(std::span<const std::string_view> names,
                  moxie::ConstVector<Backend> values) override;

  LossSums sums;
};

}  // namespace vmoe
