#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "backend/reference.hpp"

using moxie::CpuBackend;
using moxie::Index;
using moxie::test::at;

namespace {

moxie::VectorView<std::int32_t> view(std::vector<std::int32_t>& v) {
  return {v.data(), static_cast<Index>(v.size())};
}
moxie::VectorView<std::byte> bytes(std::vector<std::byte>& v) {
  return {v.data(), static_cast<Index>(v.size())};
}

}  // namespace

TEST_CASE("sort_pairs is stable for any number of keys and bits") {
  const CpuBackend<float> cpu;
  for (const Index n : {0, 1, 2, 3, 100, 5000}) {
    for (const int bits : {0, 1, 3, 8, 11, 12, 17, 22, 23, 31}) {
      const moxie::Random random(static_cast<std::uint64_t>(n), 0,
                                 static_cast<std::uint64_t>(bits));
      std::vector<std::int32_t> keys(at(n));
      for (Index i = 0; i < n; ++i) {
        keys[at(i)] = static_cast<std::int32_t>(random.bits(static_cast<std::uint64_t>(i)) &
                                                ((std::uint64_t{1} << bits) - 1));
      }
      std::vector<std::int32_t> values(at(n));
      std::iota(values.begin(), values.end(), 0);
      std::vector<std::int32_t> expected = values;
      std::stable_sort(expected.begin(), expected.end(),
                       [&](std::int32_t a, std::int32_t b) { return keys[at(a)] < keys[at(b)]; });
      const std::vector<std::int32_t> unsorted = keys;
      std::vector<std::byte> scratch(cpu.sort_pairs_bytes(n));
      cpu.sort_pairs(view(keys), view(values), bits, bytes(scratch));
      CHECK(values == expected);
      bool follow = true;
      for (Index i = 0; i < n; ++i) follow = follow && keys[at(i)] == unsorted[at(values[at(i)])];
      CHECK(follow);
    }
  }
}

TEST_CASE("exclusive_scan sums what came before, also in place") {
  const CpuBackend<float> cpu;
  std::vector<std::int32_t> in{3, 0, 4, 1};
  std::vector<std::int32_t> out(4);
  cpu.exclusive_scan(view(in), view(out), {});
  CHECK(out == std::vector<std::int32_t>{0, 3, 3, 7});
  cpu.exclusive_scan(view(in), view(in), {});
  CHECK(in == out);
  std::vector<std::int32_t> none;
  cpu.exclusive_scan(view(none), view(none), {});
}

TEST_CASE("sort_pairs and exclusive_scan refuse sizes that do not agree") {
  const CpuBackend<float> cpu;
  std::vector<std::int32_t> four(4);
  std::vector<std::int32_t> three(3);
  std::vector<std::byte> scratch(31);
  CHECK_THROWS_WITH_AS(
      cpu.sort_pairs(view(four), view(three), 4, bytes(scratch)),
      "moxie::CpuBackend::sort_pairs: 4 keys of 4 bits and 3 values, expected as many of "
      "both and at most 31 bits",
      moxie::shape_error);
  CHECK_THROWS_WITH_AS(
      cpu.sort_pairs(view(four), view(four), 4, bytes(scratch)),
      "moxie::CpuBackend::sort_pairs: scratch has 31 bytes, expected 32 (sort_pairs_bytes)",
      moxie::shape_error);
  CHECK_THROWS_WITH_AS(
      cpu.exclusive_scan(view(four), view(three), {}),
      "moxie::CpuBackend::exclusive_scan: in has 4 elements, out 3, expected the same",
      moxie::shape_error);
}
