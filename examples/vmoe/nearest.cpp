#include "nearest.hpp"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace vmoe {
namespace {

/// Levenshtein distance, one row of the table at a time.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t exchanged = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({exchanged, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string_view nearest(std::string_view word, std::span<const std::string> candidates) {
  std::string_view best;
  std::size_t least = std::max<std::size_t>(2, word.size() / 2);
  for (const std::string& candidate : candidates)
    if (const std::size_t d = distance(word, candidate); d <= least) {
      if (d == least && !best.empty()) continue;
      least = d;
      best = candidate;
    }
  return best;
}

std::string suggestion(std::string_view word, std::span<const std::string> candidates) {
  const std::string_view found = nearest(word, candidates);
  return found.empty() ? std::string{} : " (did you mean '" + std::string(found) + "'?)";
}

}  // namespace vmoe
