#pragma once

#include <cmath>
#include <nlohmann/json.hpp>

namespace vmoe {

/// NaN and infinity have no place in JSON; the report reads null.
inline nlohmann::json json_number(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

}  // namespace vmoe
