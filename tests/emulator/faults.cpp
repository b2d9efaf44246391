#include <cstdio>
#include <exception>
#include <string_view>
#include <vector>

#include "moxie/backend/device/kernels/mma.hpp"

/// faults CASE: runs a kernel with a planted mistake, or its correct form. Compiled with a
/// sanitizer; faults_test.cpp reads what that reports. A line that it must name ends in "fault:
/// CASE".
namespace moxie::test {
namespace {

using detail::device::copy_async;
using detail::device::copy_async_commit;
using detail::device::copy_async_wait;
using emulator::run_grid;

/// The barrier between writing and reading is missing or not.
template <bool Correct>
MOXIE_KERNEL void reverse(int* out) {
  MOXIE_SHARED(int[64], held);
  held[threadIdx.x] = static_cast<int>(threadIdx.x);  // fault: barrier
  if constexpr (Correct) __syncthreads();
  out[threadIdx.x] = held[63 - threadIdx.x];  // fault: barrier
}

/// No value shows it: the second round overwrites what some thread may still read.
template <bool Correct>
MOXIE_KERNEL void reuse(int* out) {
  MOXIE_SHARED(int[64], held);
  for (int round = 0; round < 3; ++round) {
    held[threadIdx.x] = round;  // fault: reuse
    __syncthreads();
    out[threadIdx.x] += held[63 - threadIdx.x];  // fault: reuse
    if constexpr (Correct) __syncthreads();
  }
}

/// Lanes exchange through shared memory: a shuffle does not order memory, __syncwarp does.
template <bool Correct>
MOXIE_KERNEL void warp(int* out) {
  MOXIE_SHARED(int[32], held);
  held[threadIdx.x] = 1;  // fault: warp
  if constexpr (Correct) __syncwarp();
  const int zero = __shfl_sync(detail::device::whole_warp, 0, 0);
  out[threadIdx.x] = held[31 - threadIdx.x] + zero;  // fault: warp
}

/// Blocks add to one place in global memory.
template <bool Correct>
MOXIE_KERNEL void blocks(int* out) {
  if (threadIdx.x != 0) return;
  if constexpr (Correct) {
    atomicAdd(out, 1);
  } else {
    *out += 1;  // fault: blocks
  }
}

/// Copies are issued into a buffer that others still read.
template <bool Correct>
MOXIE_KERNEL void copy(int* out) {
  MOXIE_SHARED(int[32], held);
  held[threadIdx.x] = 1;
  __syncthreads();
  const int read = held[31 - threadIdx.x];  // fault: copy
  if constexpr (Correct) __syncthreads();
  copy_async<4>(&held[threadIdx.x], out + threadIdx.x);  // fault: copy
  copy_async_commit();
  __syncthreads();
  copy_async_wait<0>();
  out[threadIdx.x] = held[threadIdx.x] + read;
}

/// A read beyond dynamic or static shared memory.
template <bool Correct>
MOXIE_KERNEL void dynamic(int* out) {
  MOXIE_DYNAMIC_SHARED(int, held);
  held[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = held[threadIdx.x + (Correct ? 0 : 1)];  // fault: dynamic
}
template <bool Correct>
MOXIE_KERNEL void declared(int* out) {
  MOXIE_SHARED(int[32], held);
  held[threadIdx.x] = 1;
  __syncthreads();
  const int* const from = held;
  out[threadIdx.x] = from[threadIdx.x + (Correct ? 0 : 1)];  // fault: declared
}

struct Case {
  std::string_view name;
  void (*wrong)(int*);
  void (*correct)(int*);
  emulator::Block::Shape shape;
};

const Case cases[] = {
    {"barrier", reverse<false>, reverse<true>, {{}, {64}, 0}},
    {"reuse", reuse<false>, reuse<true>, {{}, {64}, 0}},
    {"warp", warp<false>, warp<true>, {{}, {32}, 0}},
    {"blocks", blocks<false>, blocks<true>, {{6}, {32}, 0}},
    {"copy", copy<false>, copy<true>, {{}, {32}, 0}},
    {"dynamic", dynamic<false>, dynamic<true>, {{}, {32}, 32 * sizeof(int)}},
    {"declared", declared<false>, declared<true>, {{}, {32}, 0}},
};

int run(std::string_view name, bool correct) {
  for (const Case& c : cases) {
    if (c.name != name) continue;
    std::vector<int> out(64);
    for (unsigned seed = 0; seed < 3; ++seed) {
      run_grid(c.shape, seed, correct ? c.correct : c.wrong, out.data());
    }
    std::puts("ran");
    return 0;
  }
  std::puts("unknown case");
  return 2;
}

}  // namespace
}  // namespace moxie::test

int main(int count, char** arguments) try {
  if (count != 3) {
    std::puts("usage: faults CASE wrong|correct");
    return 2;
  }
  return moxie::test::run(arguments[1], std::string_view(arguments[2]) == "correct");
} catch (const std::exception& e) {
  std::puts(e.what());
  return 3;
}
