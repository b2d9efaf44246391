#include "mixup.hpp"

#include <cmath>

namespace vmoe {
namespace {

/// Logarithm of a Gamma(shape) variable by Marsaglia and Tsang (2000), `which` of draw `index`. The
/// logarithm, because with a small shape most values are too small for a double.
double log_gamma_variable(double shape, const moxie::Random& random, std::uint64_t index,
                          std::uint64_t which) {
  const std::uint64_t counter = which << 32U;
  const auto positive_uniform = [&](std::uint64_t j) { return 1 - random.uniform(index, j); };
  // Below 1, Gamma(shape) is Gamma(shape + 1) * U^(1 / shape).
  const double boost = shape < 1 ? std::log(positive_uniform(counter)) / shape : 0;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  for (std::uint64_t attempt = 1;; ++attempt) {  // each is accepted with more than 95 %
    const double x = random.normal(index, counter + 2 * attempt);
    const double u = positive_uniform(counter + 2 * attempt + 1);
    const double root = 1 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v) + boost;
  }
}

}  // namespace

double draw_mixup_weight(double concentration, const moxie::Random& random, std::uint64_t index) {
  const double a = log_gamma_variable(concentration, random, index, 0);
  const double b = log_gamma_variable(concentration, random, index, 1);
  return 1 / (1 + std::exp(-std::abs(a - b)));
}

}  // namespace vmoe
