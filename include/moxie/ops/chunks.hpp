#pragma once

#include <cstddef>

#include "moxie/core/host_device.hpp"
#include "moxie/core/view.hpp"

/// A flat vector reduced by a tree: each node stands for 1024 neighbours of the level below, so
/// that the order of a reduction depends on the length alone.
namespace moxie::detail {

inline constexpr Index flat_chunk = 1024;  // part of the result of sums

MOXIE_HD MOXIE_INLINE constexpr Index chunks_of(Index size) {
  return (size + flat_chunk - 1) / flat_chunk;
}

/// Elements of chunk `chunk` of a vector of `size`.
MOXIE_HD MOXIE_INLINE constexpr Index chunk_length(Index chunk, Index size) {
  const Index left = size - chunk * flat_chunk;
  return left < flat_chunk ? left : flat_chunk;
}

/// Nodes below the root, all levels.
constexpr std::size_t chunk_tree_nodes(Index size) {
  Index nodes = 0;
  Index level = chunks_of(size);
  for (; level > flat_chunk; level = chunks_of(level)) nodes += level;
  return static_cast<std::size_t>(nodes + level);
}

inline constexpr Index chunk_grain = 8;  // chunks a task

}  // namespace moxie::detail
