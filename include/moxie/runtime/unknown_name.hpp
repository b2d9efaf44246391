#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"

namespace moxie {

namespace detail {
/// Levenshtein distance, one row of the table at a time.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t exchanged = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = (std::min)({exchanged, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}
}  // namespace detail

/// The name nearest to `word`, the first of several; empty if each differs in more than two letters
/// and in more than half of the word.
template <class Names>
std::string_view nearest_name(std::string_view word, const Names& names) {
  std::string_view best;
  std::size_t least = (std::max)(std::size_t{2}, word.size() / 2) + 1;
  for (const std::string_view name : names)
    if (const std::size_t d = detail::edit_distance(word, name); d < least) {
      least = d;
      best = name;
    }
  return best;
}

/// " (did you mean 'epochs'?)" or nothing.
template <class Names>
std::string suggestion(std::string_view word, const Names& names) {
  const std::string_view nearest = nearest_name(word, names);
  return nearest.empty() ? std::string{} : " (did you mean '" + std::string(nearest) + "'?)";
}

/// @throws config_error: `who` was asked for a `kind` of this name, and knows `names`
template <class Names>
[[noreturn]] void throw_unknown_name(std::string_view who, std::string_view kind,
                                     std::string_view name, const Names& names) {
  std::string known;
  for (const std::string_view n : names) known += (known.empty() ? "" : ", ") + std::string(n);
  throw_config(who, ": there is no ", kind, " '", name, "'", suggestion(name, names),
               ", expected one of: ", known);
}

}  // namespace moxie
