#pragma once

/// What the sources of our kernels are written against. nvcc compiles them for a GPU; an ordinary
/// compiler compiles the same text for the emulator of the tests, which runs a kernel with a fiber
/// per CUDA thread, checks its barriers and, under ThreadSanitizer, its races.
///
/// `MOXIE_KERNELS` is defined where kernels can be compiled at all: by nvcc, or where the build
/// defines `MOXIE_EMULATED` as the emulator's header, with quotes. Kernels and their twins stand
/// inside `#if defined(MOXIE_KERNELS)`; without it their headers are empty.
///
/// Rules that keep a kernel fit for both:
///  * A kernel is a template (of its scalar, say), since a header may not define a plain one twice.
///  * Blocks do not wait for each other, and no thread for memory to change.
///  * Warps leave a kernel whole: `if (row >= rows) return;` only where the row is the warp's.
///  * Every warp function has an explicit mask; `__activemask` does not exist.
///  * Shared memory through the two macros, of trivial types. It is never cleared for you.
///  * No Thrust, CUB or std:: function inside; `math::` and `detail::device::` functions instead.
///    CUDA's own headers are never included; nvcc brings what a kernel needs.
///  * Instructions that CUDA offers as inline assembly only live in leaves like kernels/mma.hpp,
///    each beside an emulated twin.
///  * Values agree with the host's up to rounding only: nvcc contracts a * b + c.
///
/// A kernel, and the twin of an operation that runs it (twins.hpp):
///
///   template <class T>
///   MOXIE_KERNEL void MOXIE_LAUNCH_BOUNDS(128) add_one(const T* in, T* out, Index n) {
///     const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
///     if (i < n) out[i] = in[i] + T(1);
///   }
///
///   void run(const AddOne&, VectorView<const T, Space> in, VectorView<T, Space> out) {
///     self().leaf().launch({.blocks = blocks_of(in.size, 128), .threads = 128}, add_one<T>,
///                          in.data, out.data, in.size);
///   }

#include <type_traits>

#include "moxie/core/host_device.hpp"
#include "moxie/core/view.hpp"

#if defined(__CUDACC__) && defined(MOXIE_EMULATED)
#error "moxie: MOXIE_EMULATED is for ordinary compilers, not for nvcc"
#elif defined(__CUDACC__)

#define MOXIE_KERNELS 1
/// Before the `void` of a kernel; before a function that only kernels call; behind the `void` of a
/// kernel, how many threads a block has at most (and how many blocks a multiprocessor holds).
#define MOXIE_KERNEL __global__
#define MOXIE_DEVICE __device__ __forceinline__
#define MOXIE_LAUNCH_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
/// Unrolls the loop that follows.
#define MOXIE_UNROLL _Pragma("unroll")
/// `MOXIE_SHARED(float[8][33], tile);` declares an array or an object that the block shares,
/// `MOXIE_DYNAMIC_SHARED(float, row);` a pointer to the Launch::shared_bytes of it, aligned to 16
/// bytes. A type with a comma in it needs an alias.
#define MOXIE_SHARED(type, name) __shared__ ::std::type_identity_t<type> name
#define MOXIE_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char moxie_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(moxie_dynamic_shared)

#elif defined(MOXIE_EMULATED)

#define MOXIE_KERNELS 1
#define MOXIE_KERNEL
#define MOXIE_DEVICE inline
#define MOXIE_LAUNCH_BOUNDS(...)
#define MOXIE_UNROLL
#include MOXIE_EMULATED

#endif

namespace moxie::detail::device {

inline constexpr int warp_size = 32;
inline constexpr unsigned whole_warp = 0xffffffffU;  ///< the mask of all lanes

/// Blocks of `each` that cover n.
MOXIE_HD constexpr Index blocks_of(Index n, Index each) { return (n + each - 1) / each; }

}  // namespace moxie::detail::device
