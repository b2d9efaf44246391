#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <thread>

#include "../../bench/timing.hpp"

namespace {

void wait(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

}  // namespace

TEST_CASE("The median of an even number of values is between the middle two") {
  CHECK(bench::median({5, 1, 9}) == 5);
  CHECK(bench::median({4, 1, 9, 2}) == 3);
}

TEST_CASE("Functions are timed in turn, at least five times, after a round that does not count") {
  std::string order;
  const bench::Rounds rounds{.budget = 0};
  const auto [a, b, c] = bench::medians_in_turn(
      rounds,
      [&] {
        order += 'a';
        wait(order.size() <= 9
                 ? 150
                 : 1);  // three rounds of six are slow, and of those that count two of five
      },
      [&] { order += 'b'; }, [&] { order += 'c'; });
  CHECK(order == "abcabcabcabcabcabc");
  CHECK(a >= 1e-3);
  CHECK(a < 150e-3);
  CHECK(b < a);
  CHECK(c < a);
}

TEST_CASE("Rounds go on while there is time, up to the most") {
  int n = 0;
  (void)bench::medians_in_turn({.least = 2, .most = 7, .budget = 1000}, [&n] { ++n; });
  CHECK(n == 8);
}
