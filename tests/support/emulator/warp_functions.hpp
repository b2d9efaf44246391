#pragma once

/// Barriers and warp functions, by CUDA's names.

#include <bit>
#include <type_traits>

#include "support/emulator/block.hpp"

namespace moxie::emulator {

/// Of the calling thread.
inline unsigned lane() { return Block::running().thread().lane(); }

/// The lanes whose value `accept` takes.
template <class V, class Accept>
unsigned ballot(std::string_view name, unsigned mask, V value, Place place, Accept accept) {
  static_assert(std::is_arithmetic_v<V>);
  const Quiet quiet;
  const auto call = Block::running().meet(name, mask, value, false, place);
  unsigned lanes = 0;
  for (unsigned l = 0; l < 32; ++l) {
    if ((mask >> l & 1U) != 0 && accept(call->template value<V>(l))) lanes |= 1U << l;
  }
  return lanes;
}
inline unsigned vote(std::string_view name, unsigned mask, int yes, Place place) {
  return ballot(name, mask, yes, place, [](int v) { return v != 0; });
}

/// Brings `value`, takes that of lane `source(lane, width)`, both within segments of `width` lanes;
/// beyond the segment (source returns 32 or more) each keeps its own.
template <class V, class Source>
V shuffle(std::string_view name, unsigned mask, V value, int width, Place place, Source source) {
  static_assert(std::is_arithmetic_v<V>, "CUDA shuffles numbers only");
  const Quiet quiet;
  const auto segment = static_cast<unsigned>(width);
  if (width < 1 || width > 32 || !std::has_single_bit(segment)) {
    throw Error(described(name, mask, place).append(": the width is not a power of two up to 32"));
  }
  const auto call = Block::running().meet(name, mask, value, false, place);
  const unsigned from = source(lane(), segment);
  return from < 32 ? call->template value<V>(from) : value;
}

template <class V, class Combine>
V reduce(std::string_view name, unsigned mask, V value, Place place, Combine combine) {
  const Quiet quiet;
  const auto call = Block::running().meet(name, mask, value, false, place);
  V result = call->template value<V>(static_cast<unsigned>(std::countr_zero(mask)));
  for (unsigned l = static_cast<unsigned>(std::countr_zero(mask)) + 1; l < 32; ++l) {
    if ((mask >> l & 1U) != 0) result = combine(result, call->template value<V>(l));
  }
  return result;
}

}  // namespace moxie::emulator

// NOLINTBEGIN(bugprone-reserved-identifier): these are CUDA's names

inline void __syncthreads(moxie::emulator::Place at = moxie::emulator::Place::here()) {
  moxie::emulator::Block::running().barrier("__syncthreads", false, at);
}
inline int __syncthreads_count(int yes,
                               moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::Block::running().barrier("__syncthreads_count", yes != 0, at);
}
inline int __syncthreads_or(int yes, moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::Block::running().barrier("__syncthreads_or", yes != 0, at) != 0;
}
inline int __syncthreads_and(int yes, moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::Block::running().barrier("__syncthreads_and", yes == 0, at) == 0;
}
inline void __syncwarp(unsigned mask = ~0U,
                       moxie::emulator::Place at = moxie::emulator::Place::here()) {
  const moxie::emulator::Quiet quiet;
  moxie::emulator::Block::running().meet("__syncwarp", mask, 0, true, at);
}

template <class V>
V __shfl_sync(unsigned mask, V value, int source, int width = 32,
              moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::shuffle(
      "__shfl_sync", mask, value, width, at, [source](unsigned lane, unsigned segment) {
        return (lane & ~(segment - 1)) + (static_cast<unsigned>(source) & (segment - 1));
      });
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int bits, int width = 32,
                  moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::shuffle("__shfl_xor_sync", mask, value, width, at,
                                  [bits](unsigned lane, unsigned segment) {
                                    const unsigned source = lane ^ static_cast<unsigned>(bits);
                                    return source / segment > lane / segment ? 32 : source;
                                  });
}
template <class V>
V __shfl_down_sync(unsigned mask, V value, unsigned distance, int width = 32,
                   moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::shuffle("__shfl_down_sync", mask, value, width, at,
                                  [distance](unsigned lane, unsigned segment) {
                                    const bool inside = lane % segment + distance < segment;
                                    return inside ? lane + distance : 32;
                                  });
}
template <class V>
V __shfl_up_sync(unsigned mask, V value, unsigned distance, int width = 32,
                 moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::shuffle("__shfl_up_sync", mask, value, width, at,
                                  [distance](unsigned lane, unsigned segment) {
                                    return lane % segment < distance ? 32 : lane - distance;
                                  });
}

inline unsigned __ballot_sync(unsigned mask, int yes,
                              moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::vote("__ballot_sync", mask, yes, at);
}
inline int __any_sync(unsigned mask, int yes,
                      moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::vote("__any_sync", mask, yes, at) != 0;
}
inline int __all_sync(unsigned mask, int yes,
                      moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::vote("__all_sync", mask, yes, at) == mask;
}
/// The lanes that brought the same value.
template <class V>
unsigned __match_any_sync(unsigned mask, V value,
                          moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::ballot("__match_any_sync", mask, value, at,
                                 [value](V v) { return v == value; });
}

template <class V>
requires(std::is_same_v<V, int> || std::is_same_v<V, unsigned>) V
    __reduce_add_sync(unsigned mask, V value,
                      moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::reduce("__reduce_add_sync", mask, value, at,
                                 [](V a, V b) { return a + b; });
}
template <class V>
requires(std::is_same_v<V, int> || std::is_same_v<V, unsigned>) V
    __reduce_min_sync(unsigned mask, V value,
                      moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::reduce("__reduce_min_sync", mask, value, at,
                                 [](V a, V b) { return b < a ? b : a; });
}
template <class V>
requires(std::is_same_v<V, int> || std::is_same_v<V, unsigned>) V
    __reduce_max_sync(unsigned mask, V value,
                      moxie::emulator::Place at = moxie::emulator::Place::here()) {
  return moxie::emulator::reduce("__reduce_max_sync", mask, value, at,
                                 [](V a, V b) { return a < b ? b : a; });
}

// NOLINTEND(bugprone-reserved-identifier)
