#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "emulator/errors.hpp"
#include "moxie/backend/device/portable.hpp"

namespace moxie::test {
namespace {

using detail::device::whole_warp;
using emulator::run_grid;
using Lanes = std::array<int, 32>;

template <class T>
MOXIE_KERNEL void shuffle_all(T* out, int argument, int width) {
  const int mine = 100 + static_cast<int>(threadIdx.x);
  out[threadIdx.x] = __shfl_sync(whole_warp, mine, argument, width);
  out[32 + threadIdx.x] = __shfl_xor_sync(whole_warp, mine, argument, width);
  out[64 + threadIdx.x] = __shfl_up_sync(whole_warp, mine, static_cast<unsigned>(argument), width);
  out[96 + threadIdx.x] =
      __shfl_down_sync(whole_warp, mine, static_cast<unsigned>(argument), width);
}

TEST_CASE("emulator: shuffles take the lane that CUDA's manual names") {
  for (const int width : {1, 2, 8, 32}) {
    for (const int argument : {0, 1, 3, 16, 31}) {
      std::vector<int> out(128);
      run_grid({{}, {32}, 0}, static_cast<std::uint64_t>(argument), shuffle_all<int>, out.data(),
               argument, width);
      CAPTURE(width);
      CAPTURE(argument);
      for (int lane = 0; lane < 32; ++lane) {
        const int first = lane / width * width;
        const int flipped = lane ^ argument;
        CHECK(out[static_cast<std::size_t>(lane)] == 100 + first + argument % width);
        CHECK(out[static_cast<std::size_t>(32 + lane)] ==
              100 + (flipped < first + width ? flipped : lane));
        CHECK(out[static_cast<std::size_t>(64 + lane)] ==
              100 + (lane - argument >= first ? lane - argument : lane));
        CHECK(out[static_cast<std::size_t>(96 + lane)] ==
              100 + (lane + argument < first + width ? lane + argument : lane));
      }
    }
  }
}

template <class T>
MOXIE_KERNEL void vote_all(T* out) {
  const unsigned lane = threadIdx.x % 32;
  T* const to = out + 7 * threadIdx.x;
  to[0] = __ballot_sync(whole_warp, lane % 3 == 0);
  to[1] = static_cast<T>(__any_sync(whole_warp, lane == 31));
  to[2] = static_cast<T>(__all_sync(whole_warp, lane != 31));
  to[3] = __match_any_sync(whole_warp, static_cast<int>(lane % 4));
  to[4] = __reduce_add_sync(whole_warp, lane);
  to[5] = __reduce_max_sync(whole_warp, threadIdx.x ^ 5U);
  to[6] = __reduce_min_sync(whole_warp, threadIdx.x + 2U);
}

TEST_CASE("emulator: votes and reductions of a warp") {
  std::vector<unsigned> out(7 * 64);
  run_grid({{}, {64}, 0}, 1, vote_all<unsigned>, out.data());
  for (unsigned thread = 0; thread < 64; ++thread) {
    const unsigned* const at = out.data() + 7 * thread;
    CHECK(at[0] == 0x49249249);
    CHECK(at[1] == 1);
    CHECK(at[2] == 0);
    CHECK(at[3] == 0x11111111U << thread % 4);
    CHECK(at[4] == 31 * 32 / 2);
    CHECK(at[5] == (thread < 32 ? 31 : 63));
    CHECK(at[6] == (thread < 32 ? 2 : 34));
  }
}

/// Halves of a warp go different ways; each talks to its own half, at its own pace.
template <class T>
MOXIE_KERNEL void sum_halves(T* out) {
  T sum = static_cast<T>(threadIdx.x);
  if (threadIdx.x < 16) {
    for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(0x0000ffffU, sum, d);
  } else {
    sum *= 2;
    for (int d = 1; d < 16; d *= 2) sum += __shfl_xor_sync(0xffff0000U, sum, d);
  }
  out[threadIdx.x] = sum;
}

TEST_CASE("emulator: parts of a warp work apart") {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    std::vector<int> out(32);
    run_grid({{}, {32}, 0}, seed, sum_halves<int>, out.data());
    for (std::size_t i = 0; i < 32; ++i) CHECK(out[i] == (i < 16 ? 120 : 2 * (496 - 120)));
  }
}

/// A lane that is slow to look must not see what the others brought to their next call.
template <class T>
MOXIE_KERNEL void go_on_without_some(T* out) {
  const unsigned lane = threadIdx.x;
  const int first = __shfl_sync(whole_warp, static_cast<int>(lane), 0);
  int second = -1;
  if (lane < 8) second = __shfl_sync(0xffU, static_cast<int>(lane) + 50, 0);
  out[lane] = 100 * first + second;
}

TEST_CASE("emulator: what a call brought stays until all have read it") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<int> out(32);
    run_grid({{}, {32}, 0}, seed, go_on_without_some<int>, out.data());
    for (std::size_t i = 0; i < 32; ++i) CHECK(out[i] == (i < 8 ? 50 : -1));
  }
}

enum class Mistake { left_out, beyond_mask, other_masks, other_places, gone, never_was, width };

template <class T>
MOXIE_KERNEL void misuse(Mistake mistake, T* out) {
  const unsigned lane = threadIdx.x;
  const auto mine = static_cast<int>(lane);
  switch (mistake) {
    case Mistake::left_out:
      out[lane] = __shfl_sync(0x0000ffffU, mine, 0);
      break;
    case Mistake::beyond_mask:
      if (lane < 8) out[lane] = __shfl_sync(0xffU, mine, 8);
      break;
    case Mistake::other_masks:
      out[lane] = __shfl_sync(lane < 16 ? 0x0000ffffU : 0xffffffffU, mine, 0);
      break;
    case Mistake::other_places:
      out[lane] = lane < 16 ? __shfl_sync(whole_warp, mine, 0)
                            : __shfl_sync(whole_warp, mine, 0, 32, {"elsewhere", 1});
      break;
    case Mistake::gone:
      if (lane != 9) __syncwarp();
      break;
    case Mistake::never_was:
      __syncwarp();
      break;
    case Mistake::width:
      out[lane] = __shfl_sync(whole_warp, mine, 0, 12);
      break;
  }
}

std::string misused(Mistake mistake, unsigned threads = 32) {
  std::vector<int> out(threads);
  return emulator_error([&] { run_grid({{}, {threads}, 0}, 0, misuse<int>, mistake, out.data()); });
}

TEST_CASE("emulator: wrong masks of warp functions are errors that say what is wrong") {
  std::string text = misused(Mistake::left_out);
  CHECK(text.starts_with("__shfl_sync with mask 0x0000ffff at "));
  CHECK(has(text, " is called by lane "));
  CHECK(has(text, ", which is outside the mask"));

  text = misused(Mistake::beyond_mask);
  CHECK(text.starts_with("__shfl_sync with mask 0x000000ff at "));
  CHECK(text.ends_with(" reads lane 8, which is outside the mask"));

  text = misused(Mistake::other_masks);
  CHECK(text.starts_with("lanes of a warp disagree: lane "));
  CHECK(has(text, "mask 0x0000ffff"));
  CHECK(has(text, "mask 0xffffffff"));

  text = misused(Mistake::other_places);
  CHECK(text.starts_with("lanes of a warp disagree: lane "));
  CHECK(has(text, "at elsewhere:1"));
  CHECK(has(text, "warp_test.cpp:"));

  text = misused(Mistake::gone);
  CHECK(text.starts_with("__syncwarp with mask 0xffffffff at "));
  CHECK(text.ends_with(" names lane 9, which has left the kernel or never was"));

  text = misused(Mistake::never_was, 48);
  CHECK(text.ends_with(" names lane 16, which has left the kernel or never was"));

  CHECK(misused(Mistake::width).ends_with(": the width is not a power of two up to 32"));
}

}  // namespace
}  // namespace moxie::test
