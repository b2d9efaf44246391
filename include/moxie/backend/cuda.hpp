#pragma once

/// `CudaBackend<T>`: layers, routers, optimizers and attacks on a GPU. For nvcc; link moxie::cuda.
///
///   moxie::CudaStream stream;                                          // or any cudaStream_t
///   moxie::CudaBackend<float> backend(moxie::CudaLeaf(stream.get()));
///
/// Views that a layer takes then lie in the device's memory (DeviceSpace), and its calls return when
/// the work is enqueued. One backend a thread, device and stream.
#if !defined(__CUDACC__)
#error "moxie/backend/cuda.hpp: compile this file with nvcc"
#endif

#include "moxie/backend/concept.hpp"
#include "moxie/backend/cuda/leaf.hpp"
#include "moxie/backend/device/bf16_experts.hpp"
#include "moxie/backend/device/device_backend.hpp"
#include "moxie/backend/device/launch.hpp"
#include "moxie/backend/device/leaf.hpp"

namespace moxie {

template <class T>
using CudaBackend = DeviceBackend<T, CudaLeaf>;

static_assert(Leaf<CudaLeaf, float> && Leaf<CudaLeaf, double> && KernelLeaf<CudaLeaf>);
static_assert(RoundingLeaf<CudaLeaf, float> && RoundingLeaf<CudaLeaf, double>);
static_assert(Bf16Leaf<CudaLeaf> && FusingLeaf<CudaLeaf>);
static_assert(Backend<CudaBackend<float>> && Backend<CudaBackend<double>>);

}  // namespace moxie
