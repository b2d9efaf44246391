// What is measured along a sweep of noise.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "moxie/robust/discontinuities.hpp"
#include "moxie/robust/noise_sweep.hpp"
#include "moxie/robust/prediction_change.hpp"
#include "support/errors.hpp"

using namespace moxie;

TEST_CASE("a sweep goes along one direction and stays inside the range of pixels") {
  const NoiseSweep sweep{.largest = 0.5, .levels = 4, .seed = 3};
  CHECK(sweep.sigma(0) == 0);
  CHECK(sweep.sigma(1) == 0.125);
  CHECK(sweep.sigma(4) == 0.5);
  for (Index element = 0; element < 200; ++element) {
    const double n = sweep.direction(7, element);
    CHECK(sweep(0.3, 0, 7, element) == 0.3);
    for (Index level = 1; level <= 4; ++level)
      CHECK(sweep(0.3, level, 7, element) ==
            doctest::Approx(
                std::min(1.0, std::max(0.0, 0.3 + 0.125 * n * static_cast<double>(level)))));
  }
  CHECK(sweep.direction(7, 0) != sweep.direction(8, 0));
  CHECK(sweep.direction(7, 0) != NoiseSweep{.seed = 4}.direction(7, 0));
  CHECK(sweep.direction(7, 0) == NoiseSweep{.largest = 9, .levels = 2, .seed = 3}.direction(7, 0));
}

TEST_CASE("directions are standard normal") {
  const NoiseSweep sweep{.seed = 1};
  double sum = 0;
  double squares = 0;
  double across = 0;
  constexpr int n = 20000;
  for (int i = 0; i < n; ++i) {
    const double own = sweep.direction(i / 100, i % 100);
    sum += own;
    squares += own * own;
    across += own * sweep.direction(i / 100 + 1, i % 100);
  }
  CHECK(std::abs(sum / n) < 0.03);
  CHECK(std::abs(squares / n - 1) < 0.05);
  CHECK(std::abs(across / n) < 0.03);
}

TEST_CASE("discontinuities are steps beyond the threshold, up and down") {
  using V = std::vector<double>;
  CHECK(discontinuities(V{}) == 0);
  CHECK(discontinuities(V{0.9}) == 0);
  CHECK(discontinuities(V{0.5, 0.75, 0.5}) == 0);  // not beyond
  CHECK(discontinuities(V{0.9, 0.2, 0.9, 0.8, 0.5}) == 3);
  CHECK(discontinuities(V{0.9, 0.2, 0.9, 0.8, 0.5}, 0.5) == 2);
}

TEST_CASE("prediction change is the share of other classes") {
  using V = std::vector<std::int32_t>;
  CHECK(prediction_change(V{}, V{}) == 0);
  CHECK(prediction_change(V{1, 2, 3, 4}, V{1, 2, 3, 4}) == 0);
  CHECK(prediction_change(V{1, 2, 3, 4}, V{1, 0, 3, 0}) == 0.5);
  CHECK(test::message_of<shape_error>([] {
          (void)prediction_change(V{1}, V{1, 2});
        }) == "moxie::prediction_change: after has 2 images, expected 1 as before");
}
