#include <doctest/doctest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "emulator/errors.hpp"
#include "moxie/backend/device/kernels/mma.hpp"

namespace moxie::test {
namespace {

using emulator::run_grid;
using namespace detail::device;  // NOLINT(google-build-using-namespace): the instructions

std::uint16_t to_bf16(float v) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(v) >> 16);
}

/// Integers of up to 7 bits, which every type here holds exactly.
std::vector<float> small_integers(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> draw(-60, 60);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(draw(random));
  return v;
}

/// The product [16, inner] [inner, 8] plus c, by plain loops.
std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b,
                           std::vector<float> c, std::size_t inner) {
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 8; ++j) {
      for (std::size_t k = 0; k < inner; ++k) c[i * 8 + j] += a[i * inner + k] * b[k * 8 + j];
    }
  }
  return c;
}

template <class T>
MOXIE_DEVICE void load_c(float (&c)[4], const T* from) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  for (unsigned r = 0; r < 4; ++r) c[r] = from[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2];
}
template <class T>
MOXIE_DEVICE void store_c(const float (&c)[4], T* to) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  for (unsigned r = 0; r < 4; ++r) to[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2] = c[r];
}

/// a [16, 16] and b [16, 8] in bf16: fragments of A through load_matrices, of B transposed.
template <class T>
MOXIE_KERNEL void multiply_bf16(const std::uint16_t* a, const std::uint16_t* b, T* c) {
  MOXIE_SHARED(std::uint16_t[16][24], held_a);
  MOXIE_SHARED(std::uint16_t[16][8], held_b);
  const unsigned lane = threadIdx.x;
  copy_async<16>(&held_a[lane / 2][8 * (lane % 2)], a + 8 * lane);
  copy_async<8>(&held_b[lane / 2][4 * (lane % 2)], b + 4 * lane);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  std::uint32_t left[4];
  std::uint32_t right[4];
  load_matrices(left, &held_a[lane % 16][8 * (lane / 16)]);
  load_matrices_transposed(right, &held_b[lane % 16][0]);
  const std::uint32_t columns[2] = {right[0], right[1]};
  float sum[4];
  load_c(sum, c);
  mma_bf16(sum, left, columns);
  store_c(sum, c);
}

TEST_CASE("emulator: mma_bf16 multiplies the fragments that load_matrices loads") {
  const auto a = small_integers(16 * 16, 1);
  const auto b = small_integers(16 * 8, 2);
  const auto before = small_integers(16 * 8, 3);
  std::vector<std::uint16_t> half_a;
  std::vector<std::uint16_t> half_b;
  for (const float v : a) half_a.push_back(to_bf16(v));
  for (const float v : b) half_b.push_back(to_bf16(v));
  for (const std::uint64_t seed : {0U, 1U, 2U}) {
    std::vector<float> c = before;
    run_grid({{}, {32}, 0}, seed, multiply_bf16<float>, half_a.data(), half_b.data(), c.data());
    CHECK(c == product(a, b, before, 16));
  }
}

template <class T>
MOXIE_KERNEL void multiply_tf32(const T* a, const T* b, T* c) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  std::uint32_t left[4];
  std::uint32_t right[2];
  for (unsigned r = 0; r < 4; ++r) left[r] = to_tf32(a[(g + 8 * (r % 2)) * 8 + t + 4 * (r / 2)]);
  for (unsigned r = 0; r < 2; ++r) right[r] = to_tf32(b[(t + 4 * r) * 8 + g]);
  float sum[4];
  load_c(sum, c);
  mma_tf32(sum, left, right);
  store_c(sum, c);
}

TEST_CASE("emulator: mma_tf32 multiplies") {
  const auto a = small_integers(16 * 8, 4);
  const auto b = small_integers(8 * 8, 5);
  const auto before = small_integers(16 * 8, 6);
  std::vector<float> c = before;
  run_grid({{}, {32}, 0}, 0, multiply_tf32<float>, a.data(), b.data(), c.data());
  CHECK(c == product(a, b, before, 8));
}

TEST_CASE("emulator: mma_tf32 reads 10 bits after the point, and to_tf32 rounds to them") {
  const float third = 1.0F / 3;
  CHECK(std::bit_cast<float>(to_tf32(1 + 0x1p-11F)) == 1 + 0x1p-10F);  // a tie: away from 0
  CHECK(std::bit_cast<float>(to_tf32(1 + 0x1.fp-12F)) == 1);
  CHECK(std::bit_cast<float>(to_tf32(-1 - 0x1p-11F)) == -1 - 0x1p-10F);
  CHECK(std::bit_cast<float>(to_tf32(third)) == doctest::Approx(third).epsilon(0x1p-11));

  std::vector<float> c(16 * 8);
  std::vector<float> a(16 * 8, third);
  std::vector<float> b(8 * 8);
  for (std::size_t i = 0; i < 8; ++i) b[i * 8 + i] = 1;
  run_grid({{}, {32}, 0}, 0, multiply_tf32<float>, a.data(), b.data(), c.data());
  CHECK(c == std::vector<float>(16 * 8, std::bit_cast<float>(to_tf32(third))));
}

/// Copies `in` through shared memory in two groups, and waits for all but `Pending` of them.
template <int Pending>
MOXIE_KERNEL void copy_through(const std::uint32_t* in, std::uint32_t* out, unsigned valid) {
  MOXIE_SHARED(std::uint32_t[2][32], held);
  const unsigned lane = threadIdx.x;
  copy_async<4>(&held[0][lane], in + lane, lane < valid);
  copy_async_commit();
  copy_async<4>(&held[1][lane], in + 32 + lane);
  copy_async_commit();
  copy_async_wait<Pending>();
  out[lane] = held[0][lane];
  out[32 + lane] = held[1][lane];
  copy_async_wait<0>();
}

TEST_CASE("emulator: asynchronous copies arrive when they are waited for, not before") {
  std::vector<std::uint32_t> in(64);
  for (std::size_t i = 0; i < 64; ++i) in[i] = static_cast<std::uint32_t>(i + 1);
  std::vector<std::uint32_t> all(64);
  run_grid({{}, {32}, 0}, 0, copy_through<0>, in.data(), all.data(), 20U);
  std::vector<std::uint32_t> first(64);
  run_grid({{}, {32}, 0}, 0, copy_through<1>, in.data(), first.data(), 20U);
  std::vector<std::uint32_t> none(64);
  run_grid({{}, {32}, 0}, 0, copy_through<2>, in.data(), none.data(), 20U);
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t copied = i < 32 && i >= 20 ? 0 : in[i];
    CHECK(all[i] == copied);
    CHECK(first[i] == (i < 32 ? copied : 0xCBCBCBCB));
    CHECK(none[i] == 0xCBCBCBCB);
  }
}

template <class T>
MOXIE_KERNEL void copy_unaligned(const T* in) {
  MOXIE_SHARED(T[8], held);
  copy_async<16>(&held[0], in + 1);
}
template <class T>
MOXIE_KERNEL void load_unaligned() {
  MOXIE_SHARED(T[64], held);
  std::uint32_t r[4];
  load_matrices(r, &held[2 * (threadIdx.x % 8)]);
}

TEST_CASE("emulator: unaligned copies and matrices are errors") {
  alignas(16) const float in[8] = {};
  CHECK(emulator_error([&] {
          run_grid({}, 0, copy_unaligned<float>, in);
        }).ends_with(": an address is not aligned to 16 bytes"));
  CHECK(emulator_error([] {
          run_grid({{}, {32}, 0}, 0, load_unaligned<float>);
        }).ends_with(": a row is not aligned to 16 bytes"));
}

}  // namespace
}  // namespace moxie::test
