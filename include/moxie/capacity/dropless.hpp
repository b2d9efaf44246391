#pragma once

#include "moxie/capacity/concept.hpp"

namespace moxie {

/// No limit: an expert can take every token of the group. Nothing is padded; routing of a token does not depend
/// on the others.
struct Dropless {
  Index slots(const CapacityQuery& q) const noexcept { return q.tokens; }
  constexpr bool dropless(Mode) const noexcept { return true; }
  friend constexpr bool operator==(const Dropless&, const Dropless&) = default;
};

}  // namespace moxie
