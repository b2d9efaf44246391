#pragma once

#include <cmath>

#include "moxie/capacity/concept.hpp"
#include "moxie/core/error.hpp"

namespace moxie {

enum class Rounding { ceil, half_even, floor };

/// C = round(S * K * factor / E), left to right in double, then up to a multiple of `multiple_of`.
///
/// The formula is evaluated as printed, without slack: 100 * 1.1 / 10 is 12 by `ceil`. V-MoE's
/// multiple_of is 4, which inflates small groups: report the real factor. The rules of other
/// systems by name: peers.hpp.
/// @throws config_error if factor is not positive.
/// Source: V-MoE, `vmoe/moe.py`, compute_capacity.
struct CapacityFactor {
  double factor = 1.25;  ///< 1 = exactly enough under perfect balance
  Rounding rounding = Rounding::ceil;
  Index multiple_of = 1;

  Index slots(const CapacityQuery& q) const {
    if (!(factor > 0) || !std::isfinite(factor))
      throw_config("moxie::CapacityFactor: factor is ", factor, ", expected a number > 0");
    if (multiple_of < 1)
      throw_config("moxie::CapacityFactor: multiple_of is ", multiple_of, ", expected >= 1");
    const double wanted =
        static_cast<double>(q.tokens * q.choices) * factor / static_cast<double>(q.experts);
    // Above, Index could not hold what follows.
    if (!(wanted <= most))
      throw_config("moxie::CapacityFactor: factor ", factor, " asks for ", wanted,
                   " slots, expected at most ", most);
    const auto rounded = static_cast<Index>(round(wanted));
    return (rounded + multiple_of - 1) / multiple_of * multiple_of;
  }
  friend constexpr bool operator==(const CapacityFactor&, const CapacityFactor&) = default;

 private:
  static constexpr double most = 1e15;

  double round(double x) const {
    if (rounding == Rounding::ceil) return std::ceil(x);
    return rounding == Rounding::floor ? std::floor(x) : half_even(x);
  }
  /// Does not depend on the rounding mode of the caller's program, as std::nearbyint would.
  static double half_even(double x) {
    const double low = std::floor(x);
    const double rest = x - low;
    if (rest != 0.5) return rest < 0.5 ? low : low + 1;
    return std::fmod(low, 2) == 0 ? low : low + 1;
  }
};

}  // namespace moxie
