#pragma once

#include <optional>
#include <string>

#include "conformance/case.hpp"

namespace moxie::conformance {

/// The first place where two results differ, as text: `combine[2][0][1]`, and what stood there.
struct Difference {
  std::string key, expected, got;
};

struct Comparison {
  std::optional<Difference> difference;
  double max_error = 0;  ///< largest |expected - got| of the reals seen
};

/// Whether `got` has everything that `expected` has. What is real in `got` may be off by `tolerance`,
/// relative to expected sizes above 1; everything else must be equal, arrays in their lengths too.
Comparison compare(const Json& expected, const Json& got, double tolerance);

}  // namespace moxie::conformance
