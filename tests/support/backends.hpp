#pragma once

#include <doctest/doctest.h>

#include "support/buffer.hpp"
#include "support/kernels.hpp"

/// The backends that typed tests run on, how a test gets one, and memory of theirs that a test can
/// fill and read. A test body written so runs unchanged on a backend whose memory the host cannot
/// touch:
///
///   TEST_CASE_TEMPLATE("fill writes every element", B, MOXIE_TEST_BACKENDS) {
///     B backend = moxie::test::make_backend<B>();
///     moxie::test::Buffer<typename B::Scalar, B> x(backend, 7, 0);
///     backend.fill(x.view(), 2);
///     CHECK(x.to_vector() == std::vector<typename B::Scalar>(7, 2));
///   }
///
/// MOXIE_DOUBLE_BACKENDS is for what float adds nothing to: gradients against differences, say.
/// The build defines MOXIE_TEST_THRUST where it found Thrust's headers. Under nvcc the backends are
/// the GPU's, and in tests/emulated the emulated ones: the same bodies run there.
#if defined(__CUDACC__)
#include "moxie/backend/cuda.hpp"
#define MOXIE_TEST_BACKENDS ::moxie::CudaBackend<double>, ::moxie::CudaBackend<float>
#define MOXIE_DOUBLE_BACKENDS ::moxie::CudaBackend<double>
#elif defined(MOXIE_EMULATED)
#include "support/emulator/emulated_leaf.hpp"
#define MOXIE_TEST_BACKENDS \
  ::moxie::test::EmulatedBackend<double>, ::moxie::test::EmulatedBackend<float>
#define MOXIE_DOUBLE_BACKENDS ::moxie::test::EmulatedBackend<double>
#elif defined(MOXIE_TEST_THRUST)
#include "moxie/backend/thrust_host.hpp"
#define MOXIE_TEST_BACKENDS \
  ::moxie::CpuBackend<double>, ::moxie::CpuBackend<float>, ::moxie::ThrustHostBackend<double>
#define MOXIE_DOUBLE_BACKENDS ::moxie::CpuBackend<double>, ::moxie::ThrustHostBackend<double>
#else
#define MOXIE_TEST_BACKENDS ::moxie::CpuBackend<double>, ::moxie::CpuBackend<float>
#define MOXIE_DOUBLE_BACKENDS ::moxie::CpuBackend<double>
#endif

TYPE_TO_STRING_AS("CpuBackend<double>", moxie::CpuBackend<double>);
TYPE_TO_STRING_AS("CpuBackend<float>", moxie::CpuBackend<float>);
#if defined(__CUDACC__)
TYPE_TO_STRING_AS("CudaBackend<double>", moxie::CudaBackend<double>);
TYPE_TO_STRING_AS("CudaBackend<float>", moxie::CudaBackend<float>);
#elif defined(MOXIE_EMULATED)
TYPE_TO_STRING_AS("EmulatedBackend<double>", moxie::test::EmulatedBackend<double>);
TYPE_TO_STRING_AS("EmulatedBackend<float>", moxie::test::EmulatedBackend<float>);
#elif defined(MOXIE_TEST_THRUST)
TYPE_TO_STRING_AS("ThrustHostBackend<double>", moxie::ThrustHostBackend<double>);
TYPE_TO_STRING_AS("ThrustHostBackend<float>", moxie::ThrustHostBackend<float>);
#endif

namespace moxie::test {

/// How tests make a backend: specialize it for one that needs a stream or a seed.
template <class B>
struct TestBackend {
  static B make() { return B(); }
};

template <class B>
B make_backend() {
  return TestBackend<B>::make();
}

}  // namespace moxie::test
