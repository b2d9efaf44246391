#if defined(MOXIE_TEST_THRUST)

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "device/device_backends.hpp"

namespace moxie::test {
namespace {

TEST_CASE_TEMPLATE("DeviceBackend::sort_pairs is stable for any number of bits", B,
                   DEVICE_BACKENDS) {
  B backend;
  for (const int bits : {0, 1, 3, 8, 9, 16, 17, 31}) {
    for (const Index n : {0, 1, 2, 777}) {
      CAPTURE(bits);
      CAPTURE(n);
      const auto size = static_cast<std::size_t>(n);
      std::vector<std::int32_t> keys(size);
      std::uint32_t state = 21;
      for (std::int32_t& key : keys) {
        state = state * 1664525U + 1013904223U;
        key = static_cast<std::int32_t>((state >> 1) >> (31 - bits));
      }
      std::vector<std::int32_t> order(size);
      std::iota(order.begin(), order.end(), 0);
      const Buffer<std::int32_t, B> key_buffer(backend, keys);
      const Buffer<std::int32_t, B> value_buffer(backend, order);
      auto scratch = scratch_of(backend, backend.sort_pairs_bytes(n));

      backend.sort_pairs(key_buffer.view(), value_buffer.view(), bits, scratch.view());

      std::stable_sort(order.begin(), order.end(), [&](std::int32_t i, std::int32_t j) {
        return keys[std::size_t(i)] < keys[std::size_t(j)];
      });
      std::sort(keys.begin(), keys.end());
      CHECK(key_buffer.to_vector() == keys);
      CHECK(value_buffer.to_vector() == order);
    }
  }
}

TEST_CASE_TEMPLATE("DeviceBackend::exclusive_scan, also in place", B, DEVICE_BACKENDS) {
  B backend;
  for (const Index n : {0, 1, 1001}) {
    CAPTURE(n);
    std::vector<std::int32_t> counts(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] = static_cast<std::int32_t>(i % 7);
    std::vector<std::int32_t> expected(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), expected.begin(), 0);
    const Buffer<std::int32_t, B> in(backend, counts);
    const Buffer<std::int32_t, B> out(backend, n, -1);
    auto scratch = scratch_of(backend, backend.exclusive_scan_bytes(n));

    backend.exclusive_scan(in.view(), out.view(), scratch.view());
    CHECK(out.to_vector() == expected);
    CHECK(in.to_vector() == counts);
    backend.exclusive_scan(in.view(), in.view(), scratch.view());
    CHECK(in.to_vector() == expected);
  }
}

}  // namespace
}  // namespace moxie::test

#endif
