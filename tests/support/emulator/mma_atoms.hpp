#pragma once

/// What the tensor cores do, by the layouts of fragments in the PTX manual ("Matrix fragments for
/// mma.m16n8k16", "... m16n8k8", "ldmatrix"). Lane l holds row l / 4 and columns from l % 4 on.

#include <bit>
#include <cstdint>

#include "support/emulator/block.hpp"

namespace moxie::emulator {

/// What a lane brings to a product: its registers of A and B.
struct MmaFragments {
  std::uint32_t a[4];
  std::uint32_t b[2];
};

/// Element (i, j) of C [16, 8] is register 2 * (i / 8) + j % 2 of lane 4 * (i % 8) + j / 2. Adds to
/// each the sum of `term(i, j)`.
template <class Term>
void add_to_accumulator(float (&c)[4], unsigned lane, Term term) {
  for (unsigned r = 0; r < 4; ++r) c[r] += term(lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2);
}

/// C [16, 8] += A [16, 16] B [16, 8]; A and B in bf16, two to a register.
inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     Place place) {
  const Quiet quiet;
  Block& block = Block::running();
  const auto call = block.meet("mma_bf16", ~0U,
                               MmaFragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, false, place);
  const auto half = [](std::uint32_t pair, unsigned k) {
    return std::bit_cast<float>(pair >> (16 * (k % 2)) << 16);
  };
  add_to_accumulator(c, block.thread().lane(), [&](unsigned i, unsigned j) {
    float sum = 0;
    for (unsigned k = 0; k < 16; ++k) {
      const auto left = call->value<MmaFragments>(4 * (i % 8) + k % 8 / 2);
      const auto right = call->value<MmaFragments>(4 * j + k % 8 / 2);
      sum += half(left.a[i / 8 + 2 * (k / 8)], k) * half(right.b[k / 8], k);
    }
    return sum;
  });
}

/// C [16, 8] += A [16, 8] B [8, 8]; of A and B, floats, the last 13 bits are not read.
inline void mma_tf32(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     Place place) {
  const Quiet quiet;
  Block& block = Block::running();
  const auto call = block.meet("mma_tf32", ~0U,
                               MmaFragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, false, place);
  const auto number = [](std::uint32_t v) { return std::bit_cast<float>(v & ~0x1fffU); };
  add_to_accumulator(c, block.thread().lane(), [&](unsigned i, unsigned j) {
    float sum = 0;
    for (unsigned k = 0; k < 8; ++k) {
      const auto left = call->value<MmaFragments>(4 * (i % 8) + k % 4);
      const auto right = call->value<MmaFragments>(4 * j + k % 4);
      sum += number(left.a[i / 8 + 2 * (k / 4)]) * number(right.b[k / 4]);
    }
    return sum;
  });
}

/// Four matrices [8, 8] of 16-bit elements from shared memory: lane 8 m + i names row i of matrix m
/// (16 bytes, aligned), and register m of lane l gets elements (l / 4, 2 (l % 4)) and its right
/// neighbour; `transposed`: elements (2 (l % 4), l / 4) and the one below.
inline void load_matrices(std::uint32_t (&registers)[4], const void* row, bool transposed,
                          Place place) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) {
    throw Error(std::string("load_matrices at ")
                    .append(place.text())
                    .append(": a row is not aligned to 16 bytes"));
  }
  const std::uint16_t* rows[32];
  {
    const Quiet quiet;
    const auto call = Block::running().meet("load_matrices", ~0U, row, false, place);
    for (unsigned l = 0; l < 32; ++l) {
      rows[l] = static_cast<const std::uint16_t*>(call->value<const void*>(l));
    }
  }
  const unsigned l = Block::running().thread().lane();
  const unsigned r = l / 4;
  const unsigned c = 2 * (l % 4);
  for (unsigned m = 0; m < 4; ++m) {
    const auto element = [&](unsigned i, unsigned j) -> std::uint32_t {
      return rows[8 * m + i][j];
    };
    registers[m] = transposed ? element(c, r) | element(c + 1, r) << 16
                              : element(r, c) | element(r, c + 1) << 16;
  }
}

}  // namespace moxie::emulator
