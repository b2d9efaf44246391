#include <doctest/doctest.h>

#if !defined(MOXIE_TEST_THRUST)
#include "support/skip.hpp"

TEST_CASE("DeviceBackend equals plain loops") { MOXIE_SKIP("built without Thrust's headers"); }
#else

#include <cstddef>
#include <cstdint>
#include <string>

#include "device/device_backends.hpp"

namespace moxie::test {
namespace {

TEST_CASE("DeviceBackend says who lacks how much scratch") {
  using B = DeferredBackend<double>;
  B backend;
  Buffer<std::int32_t, B> keys(backend, 10, 0);
  auto scratch = scratch_of(backend, 12);
  const std::string needed = std::to_string(backend.sort_pairs_bytes(10));
  const std::string text =
      "moxie::DeviceBackend::sort_pairs: scratch has 12 bytes, expected at least " + needed +
      " (sort_pairs_bytes)";
  CHECK_THROWS_WITH_AS(backend.sort_pairs(keys.view(), keys.view(), 3, scratch.view()),
                       text.c_str(), shape_error);

  Buffer<double, B> x(backend, 600, 1);
  Buffer<double, B> out(backend, 2, 5);
  CHECK_THROWS_AS(backend.column_sums(300, 2, Square<double, DeviceSpace>{x.view(300, 2)},
                                      out.view(), scratch.view()),
                  shape_error);
  CHECK(backend.leaf().device().pending() == 0);
}

TEST_CASE("DeviceBackend refuses shapes that do not fit, before it enqueues anything") {
  using B = DeferredBackend<double>;
  B backend;
  const Buffer<double, B> x(backend, 100, 1);
  const Buffer<std::int32_t, B> i(backend, {0, 1, 2, 3});
  auto scratch = scratch_of(backend, 1024);
  const auto refused = [&](const auto& call, const char* text) {
    CHECK_THROWS_WITH_AS(call(), text, shape_error);
    CHECK(backend.leaf().device().pending() == 0);
  };
  const auto m = [&](Index rows, Index cols) { return x.view(rows, cols); };

  refused([&] { backend.gemm(Op::none, Op::transpose, 1, m(2, 3), m(4, 5), 0, m(2, 4)); },
          "moxie::DeviceBackend::gemm: op(a) is [2 x 3], op(b) is [5 x 4], c is [2 x 4]");
  refused([&] { backend.gemm(Op::transpose, Op::none, 1, m(3, 2), m(3, 5), 0, m(2, 4)); },
          "moxie::DeviceBackend::gemm: op(a) is [2 x 3], op(b) is [3 x 5], c is [2 x 4]");
  refused(
      [&] {
        backend.batched_gemm(Op::none, Op::none, 1, {m(2, 2), 3, 4}, {m(2, 2), 3, 4}, 0,
                             {m(1, 2), 3, 4});
      },
      "moxie::DeviceBackend::batched_gemm: op(a) is [2 x 2], op(b) is [2 x 2], c is [1 x 2]");
  refused(
      [&] {
        backend.batched_gemm(Op::none, Op::none, 1, {m(2, 2), 3, 4}, {m(2, 2), 2, 4}, 0,
                             {m(2, 2), 3, 4});
      },
      "moxie::DeviceBackend::batched_gemm: a, b, c have 3, 2, 3 images of 1, 1, 1 heads, "
      "expected the same");

  Rows<B> rows{};
  rows.x = m(5, 2);
  rows.offset = i.view();  // three experts
  rows.rows = 5;
  refused([&] { backend.grouped_gemm(rows, Op::none, m(5, 4), m(5, 4)); },
          "moxie::DeviceBackend::grouped_gemm: rows are 2 wide, out 4, and w is [5 x 4] for 3 "
          "experts, op none");
  refused([&] { backend.grouped_gemm(rows, Op::transpose, m(12, 3), m(5, 4)); },
          "moxie::DeviceBackend::grouped_gemm: rows are 2 wide, out 4, and w is [12 x 3] for 3 "
          "experts, op transpose");
  refused([&] { backend.grouped_gemm(rows, Op::none, m(6, 4), m(4, 4)); },
          "moxie::DeviceBackend::grouped_gemm: out has 4 rows, expected at least 5 (rows.rows)");
  Rows<B> fewer = rows;
  fewer.offset = i.view().middle(0, 3);
  refused([&] { backend.grouped_gemm_weights(rows, fewer, m(6, 2)); },
          "moxie::DeviceBackend::grouped_gemm_weights: rows are 2 wide for 3 experts, dy 2 wide "
          "for 2, and dw is [6 x 2]");
  refused([&] { backend.grouped_gemm_weights(rows, rows, m(6, 3)); },
          "moxie::DeviceBackend::grouped_gemm_weights: rows are 2 wide for 3 experts, dy 2 wide "
          "for 3, and dw is [6 x 3]");

  refused(
      [&] {
        backend.column_sums(4, 2, Square<double, DeviceSpace>{m(4, 2)}, x.view().middle(0, 3),
                            scratch.view());
      },
      "moxie::DeviceBackend::column_sums: out has 3 elements, expected 2");
  refused([&] { backend.sort_pairs(i.view(), i.view().middle(0, 3), 2, scratch.view()); },
          "moxie::DeviceBackend::sort_pairs: 4 keys of 2 bits and 3 values, expected as many of "
          "both and at most 31 bits");
  refused([&] { backend.sort_pairs(i.view(), i.view(), 32, scratch.view()); },
          "moxie::DeviceBackend::sort_pairs: 4 keys of 32 bits and 4 values, expected as many of "
          "both and at most 31 bits");
  refused([&] { backend.exclusive_scan(i.view(), i.view().middle(0, 3), scratch.view()); },
          "moxie::DeviceBackend::exclusive_scan: in has 4 elements, out 3, expected the same");
}

TEST_CASE("DeviceBackend only enqueues") {
  DeferredBackend<double> backend;
  DeferredDevice& device = backend.leaf().device();
  const Buffer<double, DeferredBackend<double> > x(backend, 4, 1);
  const Buffer<std::int32_t, DeferredBackend<double> > keys(backend, {3, 1, 2, 0});
  auto scratch = scratch_of(backend, 1024);
  CHECK(device.pending() == 0);

  std::size_t calls = 0;
  backend.fill(x.view(), 2);
  CHECK(device.pending() == ++calls);
  backend.copy(x.data() + 2, x.data(), 2 * sizeof(double));
  CHECK(device.pending() == ++calls);
  backend.gemm(Op::none, Op::none, 1, x.view(2, 1), x.view(1, 2), 0, x.view(2, 2));
  CHECK(device.pending() == ++calls);
  backend.sort_pairs(keys.view(), keys.view(), 2, scratch.view());
  CHECK(device.pending() == ++calls);
  backend.exclusive_scan(keys.view(), keys.view(), scratch.view());
  CHECK(device.pending() == ++calls);
  backend.synchronize();
  CHECK(device.pending() == 0);
}

}  // namespace
}  // namespace moxie::test

#endif
