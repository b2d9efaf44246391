// Kernels whose shared memory needs the device's leave (more than 48 KiB), against the generic forms
// on the same device.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device/device_backends.hpp"
#include "device/reference.hpp"
#include "moxie/core/arena.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/ops/attention.hpp"
#include "moxie/ops/sinkhorn.hpp"
#include "moxie/ops/sinkhorn_backward.hpp"

namespace moxie::test {
namespace {

constexpr std::size_t free_bytes = 48 * 1024;

template <class T>
constexpr double tolerance = sizeof(T) == sizeof(float) ? 1e-3 : 1e-10;

/// Memory that `bind(arena)` takes, for a forward and a backward.
template <class B, class F>
Memory<B> bound(B& b, const F& bind) {
  Arena<B> measure(Gradients::all);
  bind(measure);
  Memory<B> memory(b, measure.peak());
  Arena<B> arena(Gradients::all, memory.data(), memory.bytes());
  bind(arena);
  return memory;
}

TEST_CASE_TEMPLATE("Sinkhorn of many experts, and its gradient, on the device", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  constexpr Index experts = sizeof(T) == sizeof(float) ? 140 : 100, group = 96, tokens = 3 * group;
  static_assert(detail::device::sinkhorn_solve_bytes<T>(experts) > free_bytes);
  static_assert(detail::device::sinkhorn_solve_bytes<T>(experts) <=
                detail::device::sinkhorn_solve_most_bytes);
  const SinkhornOptions options{.group = group, .epsilon = 1, .iterations = 60};
  B b;
  const Buffer<T, B> logits(b, numbers<T>(tokens * experts, 1));
  const Buffer<T, B> d_plan(b, numbers<T>(tokens * experts, 2));
  std::vector<T> plan[2], d_logits[2];
  for (const int generic : {0, 1}) {
    const Buffer<T, B> plan_buffer(b, tokens * experts, T(0));
    const Buffer<T, B> d_buffer(b, tokens * experts, T(1));
    const ConstMatrix<B> in = logits.view(tokens, experts);
    const ConstMatrix<B> d_in = d_plan.view(tokens, experts);
    const Matrix<B> out = plan_buffer.view(tokens, experts);
    const Matrix<B> d_out = d_buffer.view(tokens, experts);
    SinkhornMemory<B> forward;
    SinkhornBackwardMemory<B> backward;
    const Memory<B> memory =
        bound(b, [&](Arena<B>& arena) { forward.bind(arena, tokens, experts, group); });
    const Memory<B> more =
        bound(b, [&](Arena<B>& arena) { backward.bind(arena, tokens, experts, group); });
    if (generic == 0) {
      sinkhorn(b, in, ConstIntVector<B>(), options, forward, out);
      sinkhorn_backward(b, ConstMatrix<B>(out), d_in, group, options.epsilon, backward, d_out);
    } else {
      Sinkhorn::generic(b, in, ConstIntVector<B>(), options, forward, out);
      SinkhornBackward::generic(b, ConstMatrix<B>(out), d_in, group, options.epsilon, backward,
                                d_out);
    }
    plan[generic] = plan_buffer.to_vector();
    d_logits[generic] = d_buffer.to_vector();
  }
  CHECK(largest_error(plan[0], in_double(plan[1])) <= tolerance<T>);
  CHECK(largest_error(d_logits[0], in_double(d_logits[1])) <= tolerance<T>);
}

TEST_CASE_TEMPLATE("Attention of wide heads, forward and backward, on the device", B,
                   MOXIE_TEST_BACKENDS) {
  using T = typename B::Scalar;
  static_assert(detail::device::AttentionTile<T, 128>::bytes(2, 2) > free_bytes);
  const AttentionShape shape{
      .images = 3, .queries = 197, .keys = 197, .heads = 4, .width = 128, .scale = 0.09};
  const Index rows = shape.images * shape.queries, cols = shape.heads * shape.width;
  B b;
  std::vector<Buffer<T, B>> in;
  for (const std::uint32_t seed : {1U, 2U, 3U, 4U})
    in.emplace_back(b, numbers<T>(rows * cols, seed));
  const auto read = [&](std::size_t i) { return ConstMatrix<B>(in[i].view(rows, cols)); };
  std::vector<std::vector<T>> results[2];
  for (const int generic : {0, 1}) {
    AttentionMemory<B> memory;
    const Memory<B> bytes = bound(b, [&](Arena<B>& arena) {
      if (generic == 0) {
        attention.bind(b, arena, shape, memory);
      } else {
        Attention::generic_bind(arena, shape, memory);
      }
    });
    std::vector<Buffer<T, B>> out;
    for (int i = 0; i < 4; ++i) out.emplace_back(b, rows * cols, T(0));
    const auto write = [&](std::size_t i) { return out[i].view(rows, cols); };
    if (generic == 0) {
      attention(b, shape, read(0), read(1), read(2), memory, write(0));
      attention_backward(b, shape, read(0), read(1), read(2), read(3), memory, write(1), write(2),
                         write(3));
    } else {
      Attention::generic(b, shape, read(0), read(1), read(2), memory, write(0));
      AttentionBackward::generic(b, shape, read(0), read(1), read(2), read(3), memory, write(1),
                                 write(2), write(3));
    }
    for (const auto& buffer : out) results[generic].push_back(buffer.to_vector());
  }
  for (std::size_t i = 0; i < 4; ++i) {
    CAPTURE(i);
    CHECK(largest_error(results[0][i], in_double(results[1][i])) <= tolerance<T>);
  }
}

}  // namespace
}  // namespace moxie::test
