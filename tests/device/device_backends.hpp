#pragma once

#include <doctest/doctest.h>

#include <cstddef>

#include "support/buffer.hpp"

/// The backends on which the tests of DeviceBackend run: one of each scalar and of each kind of
/// memory, or those with kernels: under nvcc the GPU's, in tests/emulated the emulated ones. Every
/// further one costs seconds of compile time.
#if defined(__CUDACC__) || defined(MOXIE_EMULATED)
#include "support/backends.hpp"
#define DEVICE_BACKENDS MOXIE_TEST_BACKENDS
#else
#include "device/deferred_leaf.hpp"
#include "moxie/backend/thrust_host.hpp"
#define DEVICE_BACKENDS ::moxie::ThrustHostBackend<float>, ::moxie::test::DeferredBackend<double>
TYPE_TO_STRING_AS("ThrustHostBackend<float>", moxie::ThrustHostBackend<float>);
TYPE_TO_STRING_AS("DeferredBackend<double>", moxie::test::DeferredBackend<double>);
#endif

namespace moxie::test {

template <class B>
Buffer<std::byte, B> scratch_of(B& backend, std::size_t bytes) {
  return {backend, static_cast<Index>(bytes), std::byte{0xCB}};
}

/// A term of column_sums.
template <class T, class Space>
struct Square {
  MatrixView<const T, Space> x;
  MOXIE_HD T operator()(Index i, Index j) const { return x(i, j) * x(i, j); }
};

}  // namespace moxie::test
