#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "moxie/core/view.hpp"

namespace moxie::detail {

// 2048 counters: what the first-level cache holds with room to spare
inline constexpr int radix_bits = 11;

/// One stable pass over `bits` bits of the keys from bit `shift`.
inline void radix_pass(const std::int32_t* keys, const std::int32_t* values, Index n, int shift,
                       int bits, std::int32_t* out_keys, std::int32_t* out_values) {
  Index place[std::size_t{1} << radix_bits];
  const Index size = Index{1} << bits;
  const std::uint32_t mask = static_cast<std::uint32_t>(size - 1);
  for (Index d = 0; d < size; ++d) place[d] = 0;
  for (Index i = 0; i < n; ++i) ++place[(static_cast<std::uint32_t>(keys[i]) >> shift) & mask];
  Index start = 0;
  for (Index d = 0; d < size; ++d) {
    const Index count = place[d];
    place[d] = start;
    start += count;
  }
  for (Index i = 0; i < n; ++i) {
    const Index to = place[(static_cast<std::uint32_t>(keys[i]) >> shift) & mask]++;
    out_keys[to] = keys[i];
    out_values[to] = values[i];
  }
}

/// Stable sort by the low `bits` bits of the keys; `spare` holds 2 n numbers. Cost: O(n bits / 11).
inline void radix_sort(std::int32_t* keys, std::int32_t* values, Index n, int bits,
                       std::int32_t* spare) {
  if (n < 2 || bits < 1) return;
  const int passes = (bits + radix_bits - 1) / radix_bits;
  std::int32_t* other_keys = spare;
  std::int32_t* other_values = spare + n;
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(std::int32_t);
  if (passes % 2 == 1) {  // so that the last pass ends where the caller looks
    std::memcpy(other_keys, keys, bytes);
    std::memcpy(other_values, values, bytes);
  }
  const int each = (bits + passes - 1) / passes;
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = pass * each;
    const int width = bits - shift < each ? bits - shift : each;
    if ((passes - pass) % 2 == 1) {
      radix_pass(other_keys, other_values, n, shift, width, keys, values);
    } else {
      radix_pass(keys, values, n, shift, width, other_keys, other_values);
    }
  }
}

}  // namespace moxie::detail
