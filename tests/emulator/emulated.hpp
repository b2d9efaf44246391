#pragma once

#include <cstdint>

#include "support/backends.hpp"  // names EmulatedBackend
#include "support/emulator/emulated_leaf.hpp"

namespace moxie::test {

/// An emulated device whose blocks and threads take the turns that `schedule` draws.
template <class T>
EmulatedBackend<T> emulated(std::uint64_t schedule = 0) {
  return EmulatedBackend<T>(EmulatedLeaf(schedule));
}

}  // namespace moxie::test
