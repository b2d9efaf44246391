#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "cuda/captured.hpp"
#include "cuda/counted_memory.hpp"
#include "device/device_backends.hpp"
#include "moxie/ops/layer_product.hpp"
#include "support/errors.hpp"

namespace moxie::test {
namespace {

template <class T>
struct AddOne {
  T* x;
  MOXIE_HD void operator()(Index i) const { x[i] += T(1); }
};

/// Every primitive, on the same memory.
template <class B>
struct Everything {
  using T = typename B::Scalar;
  static constexpr Index n = 600;  // more than one chunk of column_sums

  explicit Everything(B& backend)
      : x(backend, n * 4, T(1)),
        y(backend, n * 4, T(0)),
        w(backend, 4 * 4, T(0.25)),
        keys(backend, n, 0),
        values(backend, n, 0),
        scratch(scratch_of(backend, 2 * backend.sort_pairs_bytes(n) +
                                        backend.exclusive_scan_bytes(n) +
                                        backend.column_sums_bytes(n, 4))) {
    std::vector<std::int32_t> host(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) host[std::size_t(i)] = static_cast<std::int32_t>(i * 37 % 1000);
    keys.assign(host);
  }
  void enqueue(B& backend) {
    backend.for_each(n * 4, AddOne<T>{x.data()});
    backend.gemm(Op::none, Op::none, T(1), x.view(n, 4), w.view(4, 4), T(1), y.view(n, 4));
    backend.batched_gemm(Op::none, Op::transpose, T(1), {x.view(4, 4), 8, 16}, {w.view(4, 4), 8, 0},
                         T(1), {y.view(4, 4), 8, 16});
    backend.column_sums(n, 4, Square<T, DeviceSpace>{y.view(n, 4)}, w.view().middle(0, 4),
                        scratch.view());
    backend.sort_pairs(keys.view(), values.view(), 10, scratch.view());
    backend.exclusive_scan(keys.view(), values.view(), scratch.view());
    backend.copy(x.data(), y.data(), 7 * sizeof(T));
    backend.fill(y.view().middle(3, 9), T(2));
  }
  std::vector<T> all() const {
    std::vector<T> out = x.to_vector();
    for (const auto& more : {y.to_vector(), w.to_vector()})
      out.insert(out.end(), more.begin(), more.end());
    for (const auto& more : {keys.to_vector(), values.to_vector()})
      for (const std::int32_t i : more) out.push_back(static_cast<T>(i));
    return out;
  }

  Buffer<T, B> x, y, w;
  Buffer<std::int32_t, B> keys, values;
  Buffer<std::byte, B> scratch;
};

TEST_CASE_TEMPLATE("CudaLeaf takes memory in allocate only, and from where it is told", B,
                   DEVICE_BACKENDS) {
  CountedMemory memory;
  {
    B backend(CudaLeaf(CudaOptions{.memory = &memory}));
    const int of_its_own = memory.allocations;
    CHECK(of_its_own == 1);  // for cuBLAS
    Everything<B> work(backend);
    const int before = memory.allocations;
    CHECK(before == of_its_own + 6);
    work.enqueue(backend);
    backend.synchronize();
    CHECK(memory.allocations == before);
  }
  CHECK(memory.alive == 0);
}

TEST_CASE_TEMPLATE("CudaLeaf's work can be captured into a graph", B, DEVICE_BACKENDS) {
  CudaStream stream;
  B backend(CudaLeaf(stream.get()));
  Everything<B> work(backend);
  work.enqueue(backend);
  work.enqueue(backend);
  const auto expected = work.all();

  Everything<B> captured(backend);
  run_captured(stream.get(), 2, [&] { captured.enqueue(backend); });
  CHECK(captured.all() == expected);
}

TEST_CASE_TEMPLATE("CudaLeaf gives the same bits from run to run, and when it waits", B,
                   DEVICE_BACKENDS) {
  B backend;
  B waits(CudaLeaf(CudaOptions{.sync_after_launch = true}));
  Everything<B> first(backend);
  Everything<B> second(backend);
  Everything<B> third(waits);
  first.enqueue(backend);
  second.enqueue(backend);
  third.enqueue(waits);
  CHECK(first.all() == second.all());
  CHECK(first.all() == third.all());
}

TEST_CASE("CudaLeaf multiplies floats as floats, and in tf32 where asked for and allowed") {
  using B = CudaBackend<float>;
  // 1 + 2^-12 needs 12 bits of mantissa: tf32 makes it 1, and all sums below are exact
  const float x = 1 + 1.0F / 4096;
  const Index n = 512;  // so many that cuBLAS takes tensor cores
  const std::vector<float> exact(std::size_t(n * n), x);
  for (const bool tf32 : {false, true}) {
    CAPTURE(tf32);
    const std::vector<float> rounded(std::size_t(n * n), tf32 ? 1.0F : x);
    B backend(CudaLeaf(CudaOptions{.tf32 = tf32}));
    const Buffer<float, B> a(backend, n * n, x);
    const Buffer<float, B> b(backend, n * n, 1.0F / static_cast<float>(n));
    const Buffer<float, B> c(backend, n * n, 0.0F);
    const Buffer<std::int32_t, B> offset(backend, {0, 256, 512});
    const ConstMatrix<B> a_view = a.view(n, n);
    const ConstMatrix<B> b_view = b.view(n, n);
    const Matrix<B> out = c.view(n, n);

    backend.gemm(Op::none, Op::none, 1.0F, a_view, b_view, 0.0F, out);  // what gates call
    CHECK(c.to_vector() == exact);
    backend.batched_gemm(Op::none, Op::none, 1.0F, {a_view, 1, n * n}, {b_view, 1, n * n}, 0.0F,
                         {out, 1, n * n});
    CHECK(c.to_vector() == exact);
    layer_product(backend, Op::none, Op::none, a_view, b_view, 0.0F, out);
    CHECK(c.to_vector() == rounded);
    // experts with as many rows each, a strided product of cuBLAS: [256, 512] x [512, 512]
    const Buffer<float, B> w(backend, 2 * n * n, 1.0F / static_cast<float>(n));
    backend.grouped_gemm({a_view, {}, {}, offset.view(), n, 256}, Op::none, w.view(2 * n, n), out);
    CHECK(c.to_vector() == rounded);
  }
}

template <class T>
MOXIE_KERNEL void reverse_in_shared(const T* in, T* out, Index n) {
  MOXIE_DYNAMIC_SHARED(T, row);
  for (Index i = threadIdx.x; i < n; i += blockDim.x) row[i] = in[i];
  __syncthreads();
  for (Index i = threadIdx.x; i < n; i += blockDim.x) out[i] = row[n - 1 - i];
}

template <class T>
MOXIE_KERNEL void reverse_beside_static(const T* in, T* out, Index n) {
  MOXIE_DYNAMIC_SHARED(T, row);
  MOXIE_SHARED(T[2048], first);  // 8 KiB of float
  for (Index i = threadIdx.x; i < n; i += blockDim.x) row[i] = in[i];
  for (Index i = threadIdx.x; i < 2048; i += blockDim.x) first[i] = in[i];
  __syncthreads();
  for (Index i = threadIdx.x; i < n; i += blockDim.x)
    out[i] = n - 1 - i < 2048 ? first[n - 1 - i] : row[n - 1 - i];
}

TEST_CASE("CudaLeaf::launch counts on shared memory that a kernel declares itself") {
  using B = CudaBackend<float>;
  B backend;
  const Index n = 11500;  // 44.9 KiB: below 48 KiB alone, above with those
  std::vector<float> numbers(static_cast<std::size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0.0F);
  const Buffer<float, B> in(backend, numbers);
  const Buffer<float, B> out(backend, n, 0.0F);
  backend.leaf().launch({.threads = 256, .shared_bytes = std::size_t(n) * sizeof(float)},
                        reverse_beside_static<float>, in.data(), out.data(), n);
  CHECK(out.to_vector() == std::vector<float>(numbers.rbegin(), numbers.rend()));
}

TEST_CASE(
    "CudaLeaf::launch asks for more than 48 KiB of shared memory, and names what it refuses") {
  using B = CudaBackend<float>;
  B backend;
  const Index n = 16000;  // 62.5 KiB
  std::vector<float> numbers(static_cast<std::size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0.0F);
  const Buffer<float, B> in(backend, numbers);
  const Buffer<float, B> out(backend, n, 0.0F);
  const Launch shape{.blocks = 1, .threads = 256, .shared_bytes = std::size_t(n) * sizeof(float)};
  backend.leaf().launch(shape, reverse_in_shared<float>, in.data(), out.data(), n);
  CHECK(out.to_vector() == std::vector<float>(numbers.rbegin(), numbers.rend()));

  const auto refused = [&](const Launch& bad) {
    return message_of<config_error>(
        [&] { backend.leaf().launch(bad, reverse_in_shared<float>, in.data(), out.data(), n); });
  };
  CHECK(refused({.blocks = 1, .threads = 2048}) ==
        "moxie::CudaLeaf::launch: 1 x 1 x 1 blocks of 2048 threads with 0 bytes of shared memory, "
        "expected below 2^31 x 65536 x 65536 blocks of 1 to 1024 threads with at most 166912 "
        "bytes");
  CHECK(refused({.blocks = -1}) != "no error");
  CHECK(refused({.blocks_y = 65536}) != "no error");
  CHECK(refused({.shared_bytes = 200000}) != "no error");
  backend.leaf().launch({.blocks = 0}, reverse_in_shared<float>, in.data(), out.data(), n);
}

TEST_CASE("A backend that is moved by construction keeps its stream and memory") {
  using B = CudaBackend<double>;
  CudaLeaf leaf;
  cudaStream_t stream = leaf.stream();
  B backend(std::move(leaf));
  CHECK(backend.leaf().stream() == stream);
  CHECK(backend.leaf().multiprocessors() > 0);
  const Buffer<double, B> x(backend, 5, 1.5);
  backend.for_each(5, AddOne<double>{x.data()});
  CHECK(x.to_vector() == std::vector<double>(5, 2.5));
}

}  // namespace
}  // namespace moxie::test
