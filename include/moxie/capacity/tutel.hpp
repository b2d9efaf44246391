#pragma once

#include <cmath>

#include "moxie/capacity/concept.hpp"
#include "moxie/core/error.hpp"

namespace moxie {

/// C = K * int(factor * ceil(S / E)): rounds up the share of a choice, and cuts off what the factor
/// adds to it.
/// @throws config_error if factor is not positive.   Source: Tutel, `tutel/impls/fast_dispatch.py`,
/// extract_critical.
struct TutelCapacity {
  double factor = 1.0;

  Index slots(const CapacityQuery& q) const {
    const double wanted = factor * static_cast<double>((q.tokens + q.experts - 1) / q.experts);
    if (!(factor > 0) || !std::isfinite(factor))
      throw_config("moxie::TutelCapacity: factor is ", factor, ", expected a number > 0");
    if (!(wanted <= most))
      throw_config("moxie::TutelCapacity: factor ", factor, " asks for ", wanted,
                   " slots a choice, expected at most ", most);
    return q.choices * static_cast<Index>(wanted);
  }
  friend constexpr bool operator==(const TutelCapacity&, const TutelCapacity&) = default;

 private:
  static constexpr double most = 1e15;  // above, Index could not hold what follows
};

}  // namespace moxie
