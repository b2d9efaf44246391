#pragma once

/// Runs CUDA kernels on the CPU, one fiber per CUDA thread, so that tests execute what a GPU will:
/// values, barriers and warp functions, and under ThreadSanitizer the races. Programs that use it
/// are compiled with MOXIE_EMULATED (backend/device/portable.hpp), which names this header, and
/// with -fno-strict-aliasing, since kernels give shared memory what type they like.
///
/// A launch runs one block at a time. Threads change over at barriers and warp functions, in an
/// order that a seed draws; whatever CUDA leaves undefined throws Error with the places. Not seen:
/// that a GPU's memory is weaker than this machine's, bank conflicts, time.

#if !defined(MOXIE_EMULATED)
#error "moxie: define MOXIE_EMULATED for the whole program that emulates kernels"
#endif

#include <type_traits>

#include "support/emulator/atomics.hpp"
#include "support/emulator/block.hpp"
#include "support/emulator/grid.hpp"
#include "support/emulator/intrinsics.hpp"
#include "support/emulator/mma_atoms.hpp"
#include "support/emulator/warp_functions.hpp"

namespace moxie::emulator {

template <class T>
T& declared_shared(const void* key) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
  const Quiet quiet;
  return *reinterpret_cast<T*>(Block::running().shared().declared(key, sizeof(T), alignof(T)));
}
template <class T>
T* dynamic_shared() {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T> &&
                alignof(T) <= SharedMemory::dynamic_alignment);
  return reinterpret_cast<T*>(Block::running().shared().dynamic());
}

}  // namespace moxie::emulator

#define MOXIE_SHARED(type, name)             \
  static const char moxie_key_of_##name = 0; \
  ::std::type_identity_t<type>& name =       \
      ::moxie::emulator::declared_shared<type>(&moxie_key_of_##name)
#define MOXIE_DYNAMIC_SHARED(type, name) \
  type* const name = ::moxie::emulator::dynamic_shared<type>()
