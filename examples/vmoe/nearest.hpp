#pragma once

#include <span>
#include <string>
#include <string_view>

namespace vmoe {

/// The candidate that takes the fewest insertions, deletions and exchanges to become `word`; empty
/// if all are too far to be what was meant.
std::string_view nearest(std::string_view word, std::span<const std::string> candidates);

/// " (did you mean 'epochs'?)" or nothing.
std::string suggestion(std::string_view word, std::span<const std::string> candidates);

}  // namespace vmoe
