#pragma once

#include <cstdint>
#include <vector>

#include "image_set.hpp"
#include "moxie/core/random.hpp"

namespace vmoe {

/// The numbers 0 to count - 1 in random order: a pure function of `count` and the key of `random`.
std::vector<std::int32_t> shuffled(Index count, const moxie::Random& random);

}  // namespace vmoe
