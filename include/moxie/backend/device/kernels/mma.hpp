#pragma once

/// Instructions of the tensor cores and of asynchronous copies, which CUDA offers as assembly only.
/// Where an emulator runs the kernels, it carries them out.
///
/// A fragment is what one lane of a warp holds of a small matrix. With g = lane / 4, t = lane % 4:
///   C [16, 8], float:  c[0], c[1] at (g, 2t), (g, 2t + 1);  c[2], c[3] at (g + 8, ...).
///   A [16, 16], bf16 pairs:  a[0] at (g, 2t), a[1] at (g + 8, 2t), a[2] at (g, 2t + 8),
///                            a[3] at (g + 8, 2t + 8); the upper half is one column to the right.
///   B [16, 8], bf16 pairs:   b[0] at (2t, g), b[1] at (2t + 8, g); the upper half is one row below.
///   A [16, 8], tf32:  a[0] at (g, t), a[1] at (g + 8, t), a[2], a[3] four columns to the right.
///   B [8, 8], tf32:   b[0] at (t, g), b[1] at (t + 4, g).
/// (PTX manual, "Matrix fragments for mma.m16n8k16 / mma.m16n8k8".) All 32 lanes call together.

#include <cstddef>
#include <cstdint>

#include "moxie/backend/device/portable.hpp"

#if defined(MOXIE_KERNELS)

namespace moxie::detail::device {

#if defined(__CUDACC__)

/// C += A B in bf16, sums in float.
MOXIE_DEVICE void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4],
                           const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// C += A B in tf32, sums in float. The registers hold floats, of which the last 13 bits are not
/// read: see to_tf32.
MOXIE_DEVICE void mma_tf32(float (&c)[4], const std::uint32_t (&a)[4],
                           const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// v rounded to 10 bits after the point, ties away from zero.
MOXIE_DEVICE std::uint32_t to_tf32(float v) {
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(v));
  return rounded;
}

/// Copies 4, 8 or 16 bytes, to which both addresses are aligned, from global to shared memory, and
/// does not wait; not `valid`: zeros, and `from` is not read (but is an address of global memory).
/// They are there for this thread after copy_async_wait, for others after a barrier behind that.
template <int bytes>
MOXIE_DEVICE void copy_async(void* to, const void* from, bool valid = true) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int read = valid ? bytes : 0;
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(from), "r"(read)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(at), "l"(from), "n"(bytes),
                 "r"(read)
                 : "memory");
  }
}
/// What was copied since the last commit becomes a group, which may be empty.
MOXIE_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
/// Waits until all but the latest `pending` groups of this thread have arrived.
template <int pending>
MOXIE_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

/// Four matrices [8, 8] of 16-bit elements from shared memory. Lane 8 m + i brings the address of
/// row i of matrix m: 16 bytes, aligned. r[m] gets elements (g, 2t) and (g, 2t + 1) of matrix m.
MOXIE_DEVICE void load_matrices(std::uint32_t (&r)[4], const void* row) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
/// The same of the transposed matrices: r[m] gets elements (2t, g) and (2t + 1, g).
MOXIE_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

#else

using emulator::Place;

inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     Place place = Place::here()) {
  emulator::mma_bf16(c, a, b, place);
}
inline void mma_tf32(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     Place place = Place::here()) {
  emulator::mma_tf32(c, a, b, place);
}
inline std::uint32_t to_tf32(float v) {
  const auto bits = __builtin_bit_cast(std::uint32_t, v);
  const bool finite = (bits & 0x7f800000U) != 0x7f800000U;
  return finite ? (bits + 0x1000U) & ~0x1fffU : bits;
}
template <int bytes>
void copy_async(void* to, const void* from, bool valid = true, Place place = Place::here()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  emulator::Block::running().thread().copies.add(to, from, bytes, valid, place);
}
inline void copy_async_commit() { emulator::Block::running().thread().copies.commit(); }
template <int pending>
void copy_async_wait() {
  emulator::Block::running().thread().copies.wait(pending);
}
inline void load_matrices(std::uint32_t (&r)[4], const void* row, Place place = Place::here()) {
  emulator::load_matrices(r, row, false, place);
}
inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row,
                                     Place place = Place::here()) {
  emulator::load_matrices(r, row, true, place);
}

#endif

}  // namespace moxie::detail::device

#endif
