#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>

#include "moxie/core/view.hpp"

namespace moxie {

/// The shape of a kernel's launch.
struct Launch {
  Index blocks = 1;    ///< gridDim.x, below 2^31
  Index blocks_y = 1;  ///< this and `blocks_z` below 65536
  Index blocks_z = 1;
  int threads = 128;             ///< blockDim.x, at most 1024
  std::size_t shared_bytes = 0;  ///< of MOXIE_DYNAMIC_SHARED, at most 163 KiB
};

namespace detail::device {
/// Stands for every kernel in the concept below.
using AnyKernel = void (*)(const float*, float*, Index);
}  // namespace detail::device

/// A leaf that runs our own kernels, by the contract of Leaf: it enqueues and returns.
///
///   template <class... P>
///   void launch(const Launch& shape, void (*kernel)(P...), std::type_identity_t<P>... arguments);
///
/// Arguments are converted to the kernel's parameters, and copied. A launch without blocks does
/// nothing. For more than 32 KiB of shared memory, launch asks the device as CUDA wants it; a
/// kernel may declare 16 KiB more itself.
/// @throws config_error if the shape is beyond the limits above.
template <class L>
concept KernelLeaf = requires(L& leaf, const Launch& shape, detail::device::AnyKernel kernel,
                              float* out, Index n) {
  leaf.launch(shape, kernel, out, out, n);
  // How many multiprocessors there are: what the grid of a persistent kernel is a multiple of.
  { leaf.multiprocessors() } -> std::convertible_to<int>;
};

}  // namespace moxie
