#pragma once

/// CUDA's built-in variables and the intrinsics of arithmetic, by their names. Those whose names
/// others have too do not exist: the C library's (__expf and the like; kernels call math::exp), and
/// the vector types, which Thrust brings where it finds CUDA's headers.

#include <bit>
#include <cmath>
#include <cstdint>

#include "support/emulator/block.hpp"

namespace moxie::emulator {

inline Extent thread_index() { return Block::running().thread().index; }
inline Extent block_index() { return Block::running().index(); }
inline Extent block_extent() { return Block::running().shape().block; }
inline Extent grid_extent() { return Block::running().shape().grid; }

template <Extent (*Of)(), unsigned Extent::*Member>
struct Coordinate {
  operator unsigned() const { return Of().*Member; }  // NOLINT(google-explicit-constructor)
};
template <Extent (*Of)()>
struct Coordinates {
  [[no_unique_address]] Coordinate<Of, &Extent::x> x{};
  [[no_unique_address]] Coordinate<Of, &Extent::y> y{};
  [[no_unique_address]] Coordinate<Of, &Extent::z> z{};
};

}  // namespace moxie::emulator

inline constexpr moxie::emulator::Coordinates<&moxie::emulator::thread_index> threadIdx{};
inline constexpr moxie::emulator::Coordinates<&moxie::emulator::block_index> blockIdx{};
inline constexpr moxie::emulator::Coordinates<&moxie::emulator::block_extent> blockDim{};
inline constexpr moxie::emulator::Coordinates<&moxie::emulator::grid_extent> gridDim{};

// NOLINTBEGIN(bugprone-reserved-identifier)

inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __clz(int v) { return std::countl_zero(static_cast<unsigned>(v)); }
inline int __clzll(long long v) { return std::countl_zero(static_cast<unsigned long long>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }

inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline double __longlong_as_double(long long v) { return std::bit_cast<double>(v); }
inline long long __double_as_longlong(double v) { return std::bit_cast<long long>(v); }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fdividef(float a, float b) { return a / b; }

// A read or a write with advice to the caches.
template <class V>
V __ldg(const V* p) {
  return *p;
}
template <class V>
V __ldcs(const V* p) {
  return *p;
}
template <class V>
void __stcs(V* p, V value) {
  *p = value;
}

// NOLINTEND(bugprone-reserved-identifier)
