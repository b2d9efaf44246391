#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "moxie/core/bf16.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// Which products of experts have factors of bf16, 8 bits of significand, where numbers are floats:
/// none; those of tapes that are made without any gradients; or all, backward and gradients of
/// weights too. Rows and weights are copied in bf16 for that; sums, what follows them (bias,
/// activation), the weights themselves and their gradients stay floats, and so do gates, routers
/// and losses.
///
/// The copy of the weights lives with the layer, half as large as they are. It is made anew in each
/// forward pass of a tape with gradients of weights, and in other passes after a change
/// (Parameters::edit) and while a graph is captured.
enum class Bf16Experts { never, inference, always };

/// A leaf that can be told so. State it beside the leaf by static_assert.
template <class L>
concept Bf16Leaf = requires(L& leaf, Op op, Index n, const bf16* in, float* out) {
  { leaf.options().bf16_experts } -> std::convertible_to<Bf16Experts>;
  // gemm_strided of factors of bf16 with sums and results of float
  leaf.gemm_strided(op, op, n, n, n, 1.0F, in, n, n, in, n, n, 1.0F, out, n, n, n);
  // Is what is enqueued now not done, but captured to be done later, perhaps often?
  { leaf.capturing() } -> std::convertible_to<bool>;
};

namespace detail::device {

/// What a device keeps beside the weights of a layer's experts. Copies of a layer share it.
template <class B>
struct Bf16Weights {
  struct Copy {
    Memory<B> memory;
    std::uint64_t made_of = 0;  // 1 + the version of the parameters; 0: nothing
    bool captured = false;      // made by a graph, so of whatever there is when that runs
  };
  std::shared_ptr<Copy> copy = std::make_shared<Copy>();
};

/// Elements from row to row of a matrix in bf16: rows begin at multiples of 16 bytes.
constexpr Index bf16_stride(Index cols) { return (cols + 7) / 8 * 8; }
/// Bytes of such a matrix, up to the next that is aligned as an allocation.
constexpr std::size_t bf16_bytes(Index rows, Index cols) {
  return (static_cast<std::size_t>(rows * bf16_stride(cols)) * sizeof(bf16) + 255) / 256 * 256;
}

}  // namespace detail::device
}  // namespace moxie
