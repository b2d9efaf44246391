#include "moxie/core/random.hpp"

#include <doctest/doctest.h>

using namespace moxie;

namespace {

bool equals(const Philox::Block& b, std::uint32_t v0, std::uint32_t v1, std::uint32_t v2,
            std::uint32_t v3) {
  return b.v[0] == v0 && b.v[1] == v1 && b.v[2] == v2 && b.v[3] == v3;
}

}  // namespace

TEST_CASE("Philox gives its published answers") {
  CHECK(
      equals(Philox::block(0, 0, 0, 0, 0, 0), 0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U));
  constexpr std::uint32_t ones = 0xffffffffU;
  CHECK(equals(Philox::block(ones, ones, ones, ones, ones, ones), 0x408f276dU, 0x41c83b0eU,
               0xa20bc7c6U, 0x6d5451fdU));
  CHECK(equals(
      Philox::block(0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U, 0xa4093822U, 0x299f31d0U),
      0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U));
}

TEST_CASE("uniform numbers fill the unit interval evenly") {
  const Random random(1, 2, 3);
  constexpr int n = 80000;
  int bins[16] = {};
  double sum = 0;
  double neighbours = 0;  // covariance of successive numbers
  double last = 0.5;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform(static_cast<std::uint64_t>(i));
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    ++bins[static_cast<int>(u * 16)];
    sum += u;
    neighbours += (u - 0.5) * (last - 0.5);
    last = u;
  }
  double chi_square = 0;
  for (const int b : bins) chi_square += (b - n / 16.0) * (b - n / 16.0) / (n / 16.0);
  CHECK(chi_square < 37.7);  // 15 degrees of freedom: 1 in 1000
  CHECK(std::fabs(sum / n - 0.5) < 0.004);
  CHECK(std::fabs(neighbours / n) < 0.001);
}

TEST_CASE("normal numbers have the moments of a standard normal") {
  const Random random(4, 5, 6);
  constexpr int n = 80000;
  double m[5] = {};
  int beyond_two = 0;
  for (int i = 0; i < n; ++i) {
    const double z =
        random.normal(static_cast<std::uint64_t>(i / 8), static_cast<std::uint64_t>(i % 8));
    for (int k = 1; k < 5; ++k) m[k] += std::pow(z, k) / n;
    beyond_two += std::fabs(z) > 2 ? 1 : 0;
  }
  CHECK(std::fabs(m[1]) < 0.015);
  CHECK(m[2] == doctest::Approx(1).epsilon(0.02));
  CHECK(std::fabs(m[3]) < 0.05);
  CHECK(m[4] == doctest::Approx(3).epsilon(0.05));
  CHECK(beyond_two / static_cast<double>(n) == doctest::Approx(0.0455).epsilon(0.08));
}

TEST_CASE("seeds, steps, streams and counters give unrelated numbers") {
  const auto correlation = [](const Random& a, const Random& b) {
    double sum = 0;
    for (std::uint64_t i = 0; i < 20000; ++i) sum += a.normal(i) * b.normal(i);
    return std::fabs(sum / 20000);
  };
  const Random here(1, 1, stream_id("noise", 0));
  CHECK(correlation(here, Random(2, 1, stream_id("noise", 0))) < 0.03);
  CHECK(correlation(here, Random(1, 2, stream_id("noise", 0))) < 0.03);
  CHECK(correlation(here, Random(1, 1, stream_id("noise", 1))) < 0.03);
  CHECK(correlation(here, Random(1, 1, stream_id("noisf", 0))) < 0.03);
  double sum = 0;
  for (std::uint64_t i = 0; i < 20000; ++i) sum += here.normal(i, 0) * here.normal(i, 1);
  CHECK(std::fabs(sum / 20000) < 0.03);
  CHECK(here.bits(7, 9) == Random(1, 1, stream_id("noise", 0)).bits(7, 9));
  CHECK(here.bits(7, 9) != here.bits(9, 7));
}

TEST_CASE("stream_id tells names and numbers apart") {
  static_assert(stream_id("a", 1) != stream_id("a", 2));
  static_assert(stream_id("ab") != stream_id("ba"));
  static_assert(stream_id("") == 0xcbf29ce484222325U);  // the FNV offset
  CHECK(stream_id("router noise", 0) != stream_id("router noise", 1));
}
