#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "moxie/core/view.hpp"

namespace moxie::test {

/// Numbers in (-1, 1) that look random and are the same everywhere.
template <class T>
std::vector<T> numbers(Index count, std::uint32_t seed) {
  std::vector<T> values;
  for (Index i = 0; i < count; ++i) {
    seed = seed * 1664525U + 1013904223U;
    values.push_back(static_cast<T>(static_cast<double>(seed >> 8) / double(1 << 23) - 1.0));
  }
  return values;
}

template <class T>
inline constexpr double rounding = std::is_same_v<T, float> ? 1e-5 : 1e-13;

/// The largest error, relative for numbers above 1; infinite if there is a NaN or a size differs.
template <class T>
double largest_error(const std::vector<T>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(double(actual[i]) - expected[i]) / (1 + std::abs(expected[i]));
    if (!(error <= largest)) largest = error;
    if (std::isnan(error)) return std::numeric_limits<double>::infinity();
  }
  return largest;
}

/// Element (i, j) of op(x), where x lies in `values` with `stride` elements from row to row.
template <class T>
double element(const std::vector<T>& values, Index stride, Op op, Index i, Index j) {
  return double(values[std::size_t(op == Op::none ? i * stride + j : j * stride + i)]);
}

template <class T>
std::vector<double> in_double(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

}  // namespace moxie::test
