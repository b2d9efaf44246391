#pragma once

#include <cstdint>
#include <span>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// Share of images whose predicted class is another one; 0 without images.
/// @throws shape_error unless both are of as many images
inline double prediction_change(std::span<const std::int32_t> before,
                                std::span<const std::int32_t> after) {
  if (before.size() != after.size())
    throw_shape("moxie::prediction_change: after has ", after.size(), " images, expected ",
                before.size(), " as before");
  Index changed = 0;
  for (std::size_t i = 0; i < before.size(); ++i) changed += before[i] != after[i] ? 1 : 0;
  return before.empty() ? 0 : static_cast<double>(changed) / static_cast<double>(before.size());
}

}  // namespace moxie
