#pragma once

#include <cstdint>

#include "moxie/core/host_device.hpp"

namespace moxie {

/// A number of 8 exponent bits and 7 bits of fraction: the upper half of a float, and laid out as
/// CUDA's own. It is stored, not computed with: conversions are all it has.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  /// The nearest, ties to even; a NaN stays one.
  MOXIE_HD explicit bf16(float v) : bits(rounded(__builtin_bit_cast(std::uint32_t, v))) {}
  MOXIE_HD explicit operator float() const {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16U);
  }

  friend bool operator==(const bf16&, const bf16&) = default;

 private:
  MOXIE_HD static std::uint16_t rounded(std::uint32_t v) {
    const bool nan = (v & 0x7fffffffU) > 0x7f800000U;
    return static_cast<std::uint16_t>(nan ? v >> 16U | 0x40U
                                          : (v + 0x7fffU + (v >> 16U & 1U)) >> 16U);
  }
};

}  // namespace moxie
