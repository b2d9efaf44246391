#include "shuffle.hpp"

#include <numeric>
#include <utility>

namespace vmoe {

std::vector<std::int32_t> shuffled(Index count, const moxie::Random& random) {
  std::vector<std::int32_t> order(to_size(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::uint64_t i = order.size(); i > 1; --i) {
    // Scaling 32 bits instead of rejecting: the bias is below i / 2^32.
    const std::uint64_t other = (std::uint64_t{random.bits(i)} * i) >> 32U;
    std::swap(order[i - 1], order[other]);
  }
  return order;
}

}  // namespace vmoe
