#pragma once

#include <cmath>
#include <cstdint>

#include "moxie/core/host_device.hpp"
#include "moxie/core/random.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// How a parameter starts. A value: copyable, comparable, without a generator; element i of an entry is a pure
/// function of (seed, name of the entry, i).
struct Initializer {
  enum class Kind { constant, normal, truncated_normal, uniform };
  Kind kind = Kind::constant;
  double scale = 0;  ///< the constant, the standard deviation, or the half width

  static constexpr Initializer zeros() { return {Kind::constant, 0}; }
  static constexpr Initializer constant(double value) { return {Kind::constant, value}; }
  static constexpr Initializer normal(double std_dev) { return {Kind::normal, std_dev}; }
  /// Truncated normal of variance 1 / fan_in.   Source: LeCun 1998, in the form of flax.
  static Initializer lecun_normal(Index fan_in) {
    // 0.8796...: standard deviation of a standard normal cut off at +-2.
    return {Kind::truncated_normal,
            1 / (std::sqrt(static_cast<double>(fan_in)) * 0.87962566103423978)};
  }
  /// Uniform in +-sqrt(6 / (fan_in + fan_out)).   Source: Glorot and Bengio 2010.
  static Initializer xavier_uniform(Index fan_in, Index fan_out) {
    return {Kind::uniform, std::sqrt(6.0 / static_cast<double>(fan_in + fan_out))};
  }

  double operator()(const Random& random, std::uint64_t element) const {
    switch (kind) {
      case Kind::constant:
        return scale;
      case Kind::normal:
        return scale * random.normal(element);
      case Kind::truncated_normal:
        // By rejection: 95 % of the draws are taken, so 64 of them always suffice in practice.
        for (std::uint64_t attempt = 0; attempt < 64; ++attempt) {
          const double z = random.normal(element, attempt);
          if (z > -2 && z < 2) return scale * z;
        }
        return 0;
      case Kind::uniform:
        return uniform_value(random, element);
    }
    return 0;
  }
  /// Element of a uniform entry. It needs nothing of the standard library, so a device draws the same bits.
  MOXIE_HD constexpr double uniform_value(const Random& random, std::uint64_t element) const {
    return scale * (2 * random.uniform(element) - 1);
  }

  friend constexpr bool operator==(const Initializer&, const Initializer&) = default;
};

}  // namespace moxie
