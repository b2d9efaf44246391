#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moxie/testing/law_report.hpp"

namespace moxie::test {

constexpr std::size_t to_size(Index i) { return static_cast<std::size_t>(i); }

inline std::vector<double> normals(Index n, std::uint64_t seed) {
  return testing::detail::Draw(seed).normals(n);
}

template <class T>
bool all_zero(const std::vector<T>& v) {
  for (const T x : v)
    if (x != 0) return false;
  return true;
}

/// Element by element, relative to sizes above 1.
template <class T>
void check_near(const std::vector<T>& got, const std::vector<double>& wanted,
                double by = testing::tolerance<T>) {
  REQUIRE(got.size() == wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(testing::near(static_cast<double>(got[i]), wanted[i], by));
  }
}

}  // namespace moxie::test
