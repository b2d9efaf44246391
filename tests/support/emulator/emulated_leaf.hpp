#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "moxie/backend/concept.hpp"
#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/thrust_host.hpp"
#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"
#include "support/emulator/cuda_emulator.hpp"

namespace moxie::test {

/// The host leaf with kernels, which the emulator runs. Each launch has a schedule of its own, and
/// the same seed gives the same ones.
class EmulatedLeaf : public ThrustHostLeaf {
 public:
  EmulatedLeaf() = default;
  explicit EmulatedLeaf(std::uint64_t seed) : seed_(seed) {}

  template <class... P>
  void launch(const Launch& shape, void (*kernel)(P...), std::type_identity_t<P>... arguments) {
    const emulator::Block::Shape checked = checked_shape(shape);
    if (checked.grid.size() == 0) return;
    emulator::run_grid<P...>(checked, seed_ + launches_++, kernel, arguments...);
  }
  /// Few, so that a persistent kernel has to go round.
  int multiprocessors() const { return 3; }
  /// How many launches there were: did an operation take its kernel?
  std::uint64_t launches() const { return launches_; }

 private:
  static emulator::Block::Shape checked_shape(const Launch& l) {
    const auto outside = [](Index blocks, Index limit) { return blocks < 0 || blocks > limit; };
    if (outside(l.blocks, 0x7fffffff) || outside(l.blocks_y, 65535) || outside(l.blocks_z, 65535) ||
        l.threads < 1 || l.threads > 1024 || l.shared_bytes > 163 * 1024) {
      throw_config("moxie::EmulatedLeaf::launch: ", l.blocks, " x ", l.blocks_y, " x ", l.blocks_z,
                   " blocks of ", l.threads, " threads with ", l.shared_bytes,
                   " bytes of shared memory, expected up to 2^31 - 1 x 65535 x 65535 blocks of 1 "
                   "to 1024 threads and up to 166912 bytes");
    }
    const auto extent = [](Index n) { return static_cast<unsigned>(n); };
    return {{extent(l.blocks), extent(l.blocks_y), extent(l.blocks_z)},
            {extent(l.threads), 1, 1},
            l.shared_bytes};
  }

  std::uint64_t seed_ = 0;
  std::uint64_t launches_ = 0;
};

template <class T>
using EmulatedBackend = DeviceBackend<T, EmulatedLeaf>;

static_assert(KernelLeaf<EmulatedLeaf>);
static_assert(Backend<EmulatedBackend<float>> && Backend<EmulatedBackend<double>>);

}  // namespace moxie::test
