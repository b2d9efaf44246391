#pragma once

/// Atomic functions and fences, by CUDA's names. Like CUDA's they order nothing but themselves.

#include <type_traits>

#include "support/emulator/block.hpp"

namespace moxie::emulator {

/// *p = change(*p) at once; returns what was there.
template <class V, class Change>
V atomic_change(V* p, Change change) {
  static_assert(std::is_arithmetic_v<V> && (sizeof(V) == 4 || sizeof(V) == 8));
  V old;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  for (;;) {
    V changed = change(old);
    if (__atomic_compare_exchange(p, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      return old;
    }
  }
}

/// What a thread wrote before its fence is seen by who fences after it.
inline void fence() {
  Token& token = Block::running().order().fence;
  token.release();
  token.acquire();
}

}  // namespace moxie::emulator

template <class V>
V atomicAdd(V* p, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V old) { return old + value; });
}
template <class V>
V atomicSub(V* p, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V old) { return old - value; });
}
template <class V>
V atomicMin(V* p, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V old) { return value < old ? value : old; });
}
template <class V>
V atomicMax(V* p, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V old) { return old < value ? value : old; });
}
template <class V>
V atomicAnd(V* p, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V old) { return old & value; });
}
template <class V>
V atomicOr(V* p, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V old) { return old | value; });
}
template <class V>
V atomicExch(V* p, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V) { return value; });
}
template <class V>
V atomicCAS(V* p, std::type_identity_t<V> expected, std::type_identity_t<V> value) {
  return moxie::emulator::atomic_change(p, [=](V old) { return old == expected ? value : old; });
}

// NOLINTBEGIN(bugprone-reserved-identifier)
inline void __threadfence() { moxie::emulator::fence(); }
inline void __threadfence_block() { moxie::emulator::fence(); }
// NOLINTEND(bugprone-reserved-identifier)
