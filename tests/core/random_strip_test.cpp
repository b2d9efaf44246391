// Draws by the strip: measured against the standard library, and the same bits whatever the length of a strip.
#include "moxie/core/random_strip.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

using namespace moxie;
using detail::Unfused;

namespace {

/// draws[4 b + k] for blocks b = 0, 1, ..., drawn N blocks at a time.
template <class Draws, Index N>
std::vector<double> drawn(const Random& random, Index blocks) {
  std::vector<double> out;
  for (Index first = 0; first < blocks; first += N) {
    std::uint64_t i[static_cast<std::size_t>(N)];
    std::uint64_t j[static_cast<std::size_t>(N)];
    for (Index s = 0; s < N; ++s) {
      i[s] = static_cast<std::uint64_t>((first + s) / 8);
      j[s] = static_cast<std::uint64_t>((first + s) % 8);
    }
    double draw[4][static_cast<std::size_t>(N)];
    Draws::template draw<N>(detail::BlockStrip<N>(random, i, j), Unfused(), draw);
    for (Index s = 0; s < N; ++s)
      for (const auto& word : draw) out.push_back(word[s]);
  }
  return out;
}
double moment(const std::vector<double>& z, int power) {
  double sum = 0;
  for (const double v : z) sum += std::pow(v, power);
  return sum / static_cast<double>(z.size());
}
/// Largest distance of the share of draws below x from what it should be, times the root of their number.
template <class F>
double kolmogorov(std::vector<double> z, const F& distribution) {
  std::sort(z.begin(), z.end());
  const auto n = static_cast<double>(z.size());
  double most = 0;
  for (std::size_t i = 0; i < z.size(); ++i)
    most = std::max(most, std::fabs(distribution(z[i]) - (static_cast<double>(i) + 0.5) / n));
  return most * std::sqrt(n);
}

}  // namespace

TEST_CASE("log, root, cosine and sine of a draw agree with the standard library") {
  const Unfused times;
  double of_log = 0;
  double of_root = 0;
  double of_turn = 0;
  for (std::uint64_t w = 0; w < (std::uint64_t{1} << 32U); w += 19997) {
    const auto word = static_cast<std::uint32_t>(w);
    const double u = detail::open_uniform(word);
    REQUIRE(u == (static_cast<double>(word) + 0.5) / 4294967296.0);
    of_log = std::max(of_log, std::fabs(detail::log_of_normal(times, u) / std::log(u) - 1));
    of_root = std::max(of_root, std::fabs(detail::root_of_normal(times, u) / std::sqrt(u) - 1));
    double cosine = 0;
    double sine = 0;
    detail::cos_sin_of_turn(times, word, cosine, sine);
    const double angle = 2 * M_PI * static_cast<double>(word) / 4294967296.0;
    of_turn = std::max(of_turn, std::fabs(cosine - std::cos(angle)));
    of_turn = std::max(of_turn, std::fabs(sine - std::sin(angle)));
  }
  CHECK(of_log < 1e-11);
  CHECK(of_root < 3e-16);
  CHECK(of_turn < 2e-11);
  CHECK(std::isfinite(detail::log_of_normal(times, detail::open_uniform(0))));
  CHECK(detail::log_of_normal(times, detail::open_uniform(0xffffffffU)) < 0);
}

TEST_CASE("a block's normal numbers are those of its words by Box-Muller") {
  const Random random(1, 2, 3);
  const auto z = drawn<detail::NormalStrip, 4>(random, 4);
  for (std::uint64_t b = 0; b < 4; ++b) {
    const Philox::Block block = random.block(0, b);
    for (std::size_t pair = 0; pair < 2; ++pair) {
      const double u = (static_cast<double>(block.v[2 * pair]) + 0.5) / 4294967296.0;
      const double angle = 2 * M_PI * static_cast<double>(block.v[2 * pair + 1]) / 4294967296.0;
      const double radius = std::sqrt(-2 * std::log(u));
      const std::size_t at = 4 * static_cast<std::size_t>(b) + 2 * pair;
      CHECK(z[at] == doctest::Approx(radius * std::cos(angle)).epsilon(1e-9));
      CHECK(z[at + 1] == doctest::Approx(radius * std::sin(angle)).epsilon(1e-9));
    }
  }
}

TEST_CASE("draws do not depend on the length of a strip") {
  const Random random(4, 5, 6);
  CHECK((drawn<detail::NormalStrip, 1>(random, 32) == drawn<detail::NormalStrip, 16>(random, 32)));
  CHECK((drawn<detail::GumbelStrip, 1>(random, 32) == drawn<detail::GumbelStrip, 16>(random, 32)));
}

TEST_CASE("normal numbers by the strip are normally distributed, the four of a block unrelated") {
  const auto z = drawn<detail::NormalStrip, 16>(Random(4, 5, 7), 20000);
  CHECK(std::fabs(moment(z, 1)) < 0.012);
  CHECK(moment(z, 2) == doctest::Approx(1).epsilon(0.02));
  CHECK(std::fabs(moment(z, 3)) < 0.04);
  CHECK(moment(z, 4) == doctest::Approx(3).epsilon(0.05));
  // 1.95: 1 in 1000.
  CHECK(kolmogorov(z, [](double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }) < 1.95);
  for (std::size_t a = 0; a < 4; ++a)
    for (std::size_t b = a + 1; b < 4; ++b) {
      double values = 0;
      double squares = 0;
      for (std::size_t i = 0; i < z.size(); i += 4) {
        values += z[i + a] * z[i + b] / 20000;
        squares += (z[i + a] * z[i + a] - 1) * (z[i + b] * z[i + b] - 1) / 20000;
      }
      CHECK(std::fabs(values) < 0.03);
      CHECK(std::fabs(squares) < 0.06);
    }
}

TEST_CASE("Gumbel numbers by the strip have their distribution") {
  const auto g = drawn<detail::GumbelStrip, 16>(Random(4, 5, 8), 20000);
  CHECK(kolmogorov(g, [](double x) { return std::exp(-std::exp(-x)); }) < 1.95);
  CHECK(moment(g, 1) == doctest::Approx(0.5772).epsilon(0.03));
}
