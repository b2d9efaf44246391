#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <type_traits>
#include <vector>

#include "support/emulator/block.hpp"

namespace moxie::emulator {

/// What the blocks of all kernels sit on: one for each kernel would be more fibers than
/// ThreadSanitizer takes.
inline auto& kept_seats() {
  static thread_local std::array<Seats, under_tsan ? 4 : 1> seats;
  return seats;
}

/// Runs a kernel: its blocks one after the other, in an order that the seed draws, as it draws the
/// order of their threads. Blocks are not ordered to each other: what two of them write to the same
/// place without an atomic operation is a race. ThreadSanitizer sees it unless both took the same
/// seats; there are four sets, which blocks take in turns.
/// @throws Error where the kernel does what CUDA leaves undefined
template <class... P>
void run_grid(const Block::Shape& shape, std::uint64_t seed, void (*kernel)(P...),
              std::type_identity_t<P>... arguments) {
  auto& seats = kept_seats();
  const Quiet quiet;
  const std::function<void()> body = [&] { kernel(arguments...); };
  std::mt19937_64 random(seed);
  std::vector<std::size_t> turns(shape.grid.size());
  std::iota(turns.begin(), turns.end(), std::size_t{0});
  std::shuffle(turns.begin(), turns.end(), random);

  LaunchOrder order;
  std::size_t blocks = 0;
  for (const std::size_t i : turns) {
    Seats& next = seats[blocks++ % seats.size()];
    Block(shape, shape.grid.index(i), random(), next, order).run(body);
  }
}

}  // namespace moxie::emulator
