#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "emulator/errors.hpp"
#include "moxie/backend/device/portable.hpp"
#include "support/skip.hpp"

namespace moxie::test {
namespace {

using emulator::run_grid;

template <class T>
MOXIE_KERNEL void write_indices(T* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = static_cast<T>(1000 * block + thread);
}

TEST_CASE("emulator: every thread of every block runs once and knows where it is") {
  std::vector<int> out(2 * 3 * 4 * 5 * 3 * 2, -1);
  run_grid({{2, 3, 4}, {5, 3, 2}, 0}, 7, write_indices<int>, out.data());
  for (int block = 0; block < 24; ++block) {
    for (int thread = 0; thread < 30; ++thread) {
      CHECK(out[static_cast<std::size_t>(30 * block + thread)] == 1000 * block + thread);
    }
  }
}

template <class T>
MOXIE_KERNEL void reverse(const T* in, T* out) {
  MOXIE_SHARED(T[64], held);
  MOXIE_DYNAMIC_SHARED(T, more);
  held[threadIdx.x] = in[threadIdx.x];
  more[threadIdx.x] = T(2) * in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = held[63 - threadIdx.x] + more[63 - threadIdx.x];
}

TEST_CASE("emulator: shared memory carries values across a barrier, whatever the schedule") {
  std::vector<float> in(64);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<float> out(64, -1);
    run_grid({{}, {64}, 64 * sizeof(float)}, seed, reverse<float>, in.data(), out.data());
    for (std::size_t i = 0; i < in.size(); ++i) CHECK(out[i] == 3 * in[63 - i]);
  }
}

template <class T>
MOXIE_KERNEL void reverse_without_barrier(T* out) {
  MOXIE_SHARED(T[64], held);
  held[threadIdx.x] = 1;
  out[threadIdx.x] = held[63 - threadIdx.x];
}

TEST_CASE("emulator: without the barrier a thread reads what no kernel wrote") {
  if (emulator::under_tsan) MOXIE_SKIP("ThreadSanitizer would report the race");
  std::vector<std::uint32_t> out(64);
  run_grid({{}, {64}, 0}, 1, reverse_without_barrier<std::uint32_t>, out.data());
  const std::set<std::uint32_t> values(out.begin(), out.end());
  CHECK(values == std::set<std::uint32_t>{1, 0xCBCBCBCB});
}

template <class T>
MOXIE_KERNEL void note_order(T* blocks, T* threads, T* next) {
  threads[64 * blockIdx.x + threadIdx.x] = atomicAdd(next, T(1));
  __syncthreads();
  if (threadIdx.x == 0) blocks[blockIdx.x] = atomicAdd(next, T(0));
}

TEST_CASE("emulator: the seed draws the order of blocks and threads") {
  using Order = std::vector<int>;
  const auto order = [](std::uint64_t seed) {
    Order o(8 + 8 * 64);
    int next = 0;
    run_grid({{8}, {64}, 0}, seed, note_order<int>, o.data(), o.data() + 8, &next);
    return o;
  };
  CHECK(order(3) == order(3));
  std::set<Order> blocks;
  std::set<Order> threads;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const Order o = order(seed);
    blocks.emplace(o.begin(), o.begin() + 8);
    threads.emplace(o.begin() + 8, o.end());
  }
  CHECK(blocks.size() == 10);
  CHECK(threads.size() == 10);
}

template <class T>
MOXIE_KERNEL void count(T* out) {
  const int odd = threadIdx.x % 2 == 1;
  const int counted = __syncthreads_count(odd);
  const int any = __syncthreads_or(threadIdx.x == 5);
  const int none = __syncthreads_or(threadIdx.x == 500);
  const int all = __syncthreads_and(threadIdx.x < 48);
  const int most = __syncthreads_and(threadIdx.x != 7);
  out[threadIdx.x] = counted * 10000 + any * 1000 + none * 100 + all * 10 + most;
}

TEST_CASE("emulator: barriers that count") {
  std::vector<int> out(48);
  run_grid({{}, {48}, 0}, 0, count<int>, out.data());
  CHECK(out == std::vector<int>(48, 241010));
}

template <class T>
MOXIE_KERNEL void leave_early(T* out) {
  if (threadIdx.x >= 32) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

TEST_CASE("emulator: a barrier does not wait for threads that left") {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    std::vector<int> out(32);
    run_grid({{}, {96}, 0}, seed, leave_early<int>, out.data());
    CHECK(out == std::vector<int>(32, 1));
  }
}

constexpr unsigned divergent_line = __LINE__ + 4;
template <class T>
MOXIE_KERNEL void diverge(T* out) {
  if (threadIdx.x < 16) {
    __syncthreads();
    out[threadIdx.x] = 1;
  } else {
    out[threadIdx.x] = 2;
    __syncthreads();
  }
}

TEST_CASE("emulator: barriers in both branches are an error that names them") {
  std::vector<int> out(32);
  const std::string text = emulator_error([&] {
    run_grid({{}, {32}, 0}, 0, diverge<int>, out.data());
  });
  CHECK(text.starts_with("divergent barrier: thread "));
  CHECK(has(text, at_line(__FILE__, divergent_line)));
  CHECK(has(text, at_line(__FILE__, divergent_line + 4)));
}

constexpr unsigned waiting_line = __LINE__ + 4;
template <class T>
MOXIE_KERNEL void wait_for_each_other(T* out) {
  if (threadIdx.x < 33) {
    __syncthreads();
  } else {
    __syncwarp(0xffffffffU);
  }
  out[threadIdx.x] = 1;
}

TEST_CASE("emulator: a deadlock is an error that says who waits where") {
  std::vector<int> out(64);
  const std::string text = emulator_error([&] {
    run_grid({{}, {64}, 0}, 0, wait_for_each_other<int>, out.data());
  });
  CHECK(text == "deadlock: 33 threads wait in __syncthreads at " + at_line(__FILE__, waiting_line) +
                    " (the first is 0); 31 threads wait in __syncwarp with mask 0xffffffff at " +
                    at_line(__FILE__, waiting_line + 2) + " (the first is 33)");
}

struct Refused {
  int code;
};
template <class T>
MOXIE_KERNEL void refuse(T* out) {
  __syncthreads();
  if (threadIdx.x == 3) throw Refused{static_cast<int>(*out)};
  __syncthreads();
}

TEST_CASE("emulator: what a kernel throws arrives, and the next launch works") {
  int code = 17;
  CHECK_THROWS_AS(run_grid({{4}, {64}, 0}, 0, refuse<int>, &code), Refused);
  std::vector<int> out(32);
  run_grid({{}, {96}, 0}, 0, leave_early<int>, out.data());
  CHECK(out == std::vector<int>(32, 1));
}

template <class T>
MOXIE_KERNEL void declare_much(T* out) {
  MOXIE_SHARED(T[10000], held);
  held[0] = 1;
  *out = held[0];
}

TEST_CASE("emulator: more static shared memory than a block can have is an error") {
  float fits = 0;
  run_grid({}, 0, declare_much<float>, &fits);
  CHECK(fits == 1);
  double out = 0;
  CHECK(emulator_error([&] { run_grid({}, 0, declare_much<double>, &out); }) ==
        "MOXIE_SHARED: a block declares 80000 bytes, and may have 49152; take dynamic shared "
        "memory");
}

TEST_CASE("emulator: functions of kernels are refused outside a kernel") {
  CHECK(emulator_error([] { __syncthreads(); }) ==
        "a function of kernels is called outside a kernel");
}

template <class T>
MOXIE_KERNEL void add_partial_sums(const T* in, T* partial, T* sum, unsigned* done) {
  MOXIE_SHARED(unsigned, last);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = in[blockIdx.x];
    __threadfence();
    last = atomicAdd(done, 1U) + 1 == gridDim.x ? 1 : 0;
    __threadfence();
    if (last != 0) {
      T total = 0;
      for (unsigned i = 0; i < gridDim.x; ++i) total += partial[i];
      *sum = total;
    }
  }
}

TEST_CASE("emulator: the last block to arrive sees what the others wrote") {
  const std::vector<float> in = {1, 2, 4, 8, 16};
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    std::vector<float> partial(5);
    float sum = 0;
    unsigned done = 0;
    run_grid({{5}, {32}, 0}, seed, add_partial_sums<float>, in.data(), partial.data(), &sum, &done);
    CHECK(sum == 31);
  }
}

}  // namespace
}  // namespace moxie::test
