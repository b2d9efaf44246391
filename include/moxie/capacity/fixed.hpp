#pragma once

#include "moxie/capacity/concept.hpp"

namespace moxie {

/// C given outright.
struct FixedCapacity {
  Index capacity = 1;

  Index slots(const CapacityQuery&) const noexcept { return capacity; }
  friend constexpr bool operator==(const FixedCapacity&, const FixedCapacity&) = default;
};

}  // namespace moxie
