#pragma once

#include <vector>

#include "moxie/routing/tensors.hpp"

namespace moxie {

/// A choice that no expert took.
struct DroppedChoice {
  Index token = 0;   ///< row of x
  Index choice = 0;  ///< column of the routing's lists: 0 is the token's best; NextChoice moves
                     ///< kept ones forward
  Index expert = 0;  ///< that had no slot left

  friend constexpr bool operator==(const DroppedChoice&, const DroppedChoice&) = default;
};

/// The (token, choice) pairs of a pass that were dropped for want of capacity, by token and choice.
/// Choices of -1 (padding) were never made and are not among them, recorded drops that are replayed
/// are; routing by expert choice drops none. `r` is what RoutingVisitor::sparse is shown. Blocks: copies the routes
/// to the host.
template <Backend B>
std::vector<DroppedChoice> dropped(B& b, const SparseRouting<B>& r) {
  std::vector<DroppedChoice> out;
  if (r.first || r.choice.size() == 0) return out;
  const auto n = static_cast<std::size_t>(r.choice.size());
  std::vector<std::int32_t> choice(n);
  std::vector<std::int32_t> row(n);
  b.copy_to_host(choice.data(), r.choice.data, n * sizeof(std::int32_t));
  b.copy_to_host(row.data(), r.row.data, n * sizeof(std::int32_t));
  for (std::size_t a = 0; a < n; ++a)
    if (choice[a] >= 0 && row[a] < 0)
      out.push_back({.token = static_cast<Index>(a) / r.choice.cols,
                     .choice = static_cast<Index>(a) % r.choice.cols,
                     .expert = choice[a]});
  return out;
}

}  // namespace moxie
