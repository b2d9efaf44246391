#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moxie/core/view.hpp"
#include "support/emulator/emulated_leaf.hpp"

namespace moxie::test {
namespace {

template <class T>
MOXIE_KERNEL void add_blocks(ConstVector<EmulatedBackend<T>> in, T each, T* out) {
  MOXIE_DYNAMIC_SHARED(T, held);
  held[threadIdx.x] = in[static_cast<Index>(threadIdx.x)];
  __syncthreads();
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x + threadIdx.x] = held[blockDim.x - 1 - threadIdx.x] + each;
}

TEST_CASE("EmulatedLeaf launches kernels, and converts their arguments") {
  EmulatedLeaf leaf;
  std::vector<float> in = {1, 2, 3};
  std::vector<float> out(18);
  const Vector<EmulatedBackend<float>> x(in.data(), 3);
  leaf.launch({.blocks = 3, .blocks_y = 2, .threads = 3, .shared_bytes = 3 * sizeof(float)},
              add_blocks<float>, x, 10, out.data());
  for (std::size_t i = 0; i < 18; ++i) CHECK(out[i] == static_cast<float>(13 - i % 3));
  CHECK(leaf.launches() == 1);

  leaf.launch({.blocks = 0}, add_blocks<float>, x, 10, nullptr);
  leaf.launch({.blocks = 4, .blocks_z = 0}, add_blocks<float>, x, 10, nullptr);
  CHECK(leaf.launches() == 1);
  CHECK(leaf.multiprocessors() > 1);
}

template <class T>
MOXIE_KERNEL void draw_numbers(T* out, T* next) {
  out[threadIdx.x] = atomicAdd(next, 1);
}

TEST_CASE("EmulatedLeaf: each launch has a schedule of its own, given by the seed") {
  const auto order = [](EmulatedLeaf& leaf) {
    std::vector<int> out(32);
    int next = 0;
    leaf.launch({.threads = 32}, draw_numbers<int>, out.data(), &next);
    return out;
  };
  EmulatedLeaf leaf(5);
  EmulatedLeaf same(5);
  EmulatedLeaf other(77);
  const auto first = order(leaf);
  CHECK(first == order(same));
  CHECK(first != order(other));
  CHECK(first != order(leaf));
}

TEST_CASE("EmulatedLeaf refuses launches that no GPU would take") {
  EmulatedLeaf leaf;
  int out[1] = {};
  const auto refused = [&](const Launch& shape) {
    CHECK_THROWS_AS(leaf.launch(shape, draw_numbers<int>, out, out), config_error);
  };
  refused({.blocks = -1});
  refused({.blocks = Index{1} << 31});
  refused({.blocks_y = 65536});
  refused({.blocks_z = 65536});
  refused({.threads = 0});
  refused({.threads = 1025});
  refused({.shared_bytes = 166913});
  CHECK_THROWS_WITH_AS(
      leaf.launch({.blocks = 7, .threads = 2048, .shared_bytes = 64}, draw_numbers<int>, out, out),
      "moxie::EmulatedLeaf::launch: 7 x 1 x 1 blocks of 2048 threads with 64 bytes of shared "
      "memory, expected up to 2^31 - 1 x 65535 x 65535 blocks of 1 to 1024 threads and up to "
      "166912 bytes",
      config_error);
  CHECK(leaf.launches() == 0);
}

}  // namespace
}  // namespace moxie::test
