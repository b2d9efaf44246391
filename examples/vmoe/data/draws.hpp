#pragma once

#include <cstdint>

#include "moxie/core/random.hpp"
#include "moxie/core/view.hpp"

namespace vmoe {

/// The random numbers of one view of one image, one after the other.
class Draws {
 public:
  Draws(const moxie::Random& random, std::uint64_t image, std::uint64_t view)
      : random_(random), image_(image), next_(view << 32U) {}

  double uniform() { return random_.uniform(image_, next_++); }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  bool coin() { return uniform() < 0.5; }
  /// 0 to count - 1.
  moxie::Index below(moxie::Index count) {
    return static_cast<moxie::Index>(uniform() * static_cast<double>(count));
  }

 private:
  moxie::Random random_;
  std::uint64_t image_, next_;
};

}  // namespace vmoe
