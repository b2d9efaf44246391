#pragma once

#include <cmath>
#include <cstdint>

#include "moxie/core/host_device.hpp"

namespace moxie {

/// Philox4x32-10: a pure function from (counter, key) to 128 random bits. No state, so the same element gets
/// the same bits on any backend, thread count or split of a batch.
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
struct Philox {
  struct Block {
    std::uint32_t v[4];
  };

 private:
  /// Written out: a loop over blocks then has none inside and is made of vectors. (Clang wants it before `block`.)
  template <int Left>
  MOXIE_HD MOXIE_INLINE static constexpr void rounds(Block& c, std::uint32_t k0, std::uint32_t k1) {
    const std::uint64_t a = std::uint64_t{0xD2511F53U} * c.v[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * c.v[2];
    c = {{static_cast<std::uint32_t>(b >> 32U) ^ c.v[1] ^ k0, static_cast<std::uint32_t>(b),
          static_cast<std::uint32_t>(a >> 32U) ^ c.v[3] ^ k1, static_cast<std::uint32_t>(a)}};
    if constexpr (Left > 1) rounds<Left - 1>(c, k0 + 0x9E3779B9U, k1 + 0xBB67AE85U);
  }

 public:
  MOXIE_HD MOXIE_INLINE static constexpr Block block(std::uint32_t c0, std::uint32_t c1,
                                                     std::uint32_t c2, std::uint32_t c3,
                                                     std::uint32_t k0, std::uint32_t k1) {
    Block c{{c0, c1, c2, c3}};
    rounds<10>(c, k0, k1);
    return c;
  }
};

// The published known answers (Random123, kat_vectors).
static_assert(Philox::block(0, 0, 0, 0, 0, 0).v[0] == 0x6627e8d5U);
static_assert(Philox::block(0, 0, 0, 0, 0, 0).v[3] == 0x9b00dbd8U);
static_assert(Philox::block(0xffffffffU, 0xffffffffU, 0xffffffffU, 0xffffffffU, 0xffffffffU,
                            0xffffffffU)
                  .v[0] == 0x408f276dU);
static_assert(Philox::block(0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U, 0xa4093822U,
                            0x299f31d0U)
                  .v[0] == 0xd16cfe09U);

/// Random numbers as a function of where they are used: key (seed, step, stream) and two counters, for
/// instance (token, expert). `stream` separates purposes; make one with `stream_id`.
class Random {
 public:
  Random() = default;
  MOXIE_HD constexpr Random(std::uint64_t seed, std::uint64_t step, std::uint64_t stream)
      : key_(mix(mix(mix(seed) ^ step) ^ stream)) {}

  MOXIE_HD constexpr Philox::Block block(std::uint64_t i, std::uint64_t j) const {
    return Philox::block(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32U),
                         static_cast<std::uint32_t>(j), static_cast<std::uint32_t>(j >> 32U),
                         static_cast<std::uint32_t>(key_), static_cast<std::uint32_t>(key_ >> 32U));
  }
  MOXIE_HD constexpr std::uint32_t bits(std::uint64_t i, std::uint64_t j = 0) const {
    return block(i, j).v[0];
  }
  /// Uniform in [0, 1), on a grid of 2^-53.
  MOXIE_HD constexpr double uniform(std::uint64_t i, std::uint64_t j = 0) const {
    const Philox::Block b = block(i, j);
    const std::uint64_t wide = (std::uint64_t{b.v[0]} << 21U) ^ (b.v[1] >> 11U);
    return static_cast<double>(wide) * (1.0 / 9007199254740992.0);
  }
  /// Standard normal by Box-Muller.
  MOXIE_HD double normal(std::uint64_t i, std::uint64_t j = 0) const {
    const Philox::Block b = block(i, j);
    const double u = (static_cast<double>(b.v[0]) + 0.5) * (1.0 / 4294967296.0);
    const double angle = static_cast<double>(b.v[1]) * (6.283185307179586 / 4294967296.0);
    return ::sqrt(-2.0 * ::log(u)) * ::cos(angle);
  }

  friend constexpr bool operator==(const Random&, const Random&) = default;

 private:
  /// splitmix64: neighbouring seeds, steps and streams give unrelated keys.
  MOXIE_HD static constexpr std::uint64_t mix(std::uint64_t z) {
    z += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
  }
  std::uint64_t key_ = 0;
};

/// A stream from a name: FNV-1a of its characters, combined with a number such as a layer's.
constexpr std::uint64_t stream_id(const char* name, std::uint64_t number = 0) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (; *name != '\0'; ++name) hash = (hash ^ static_cast<unsigned char>(*name)) * 0x100000001b3U;
  return hash ^ (number * 0x9E3779B97F4A7C15U);
}

}  // namespace moxie
