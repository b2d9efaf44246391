#pragma once

#include "conformance/case.hpp"
#include "support/kernels.hpp"
#if defined(MOXIE_TEST_CUDA)
#include "moxie/backend/cuda.hpp"
#elif defined(MOXIE_EMULATED)
#include "support/emulator/emulated_leaf.hpp"
#elif defined(MOXIE_TEST_THRUST)
#include "moxie/backend/thrust_host.hpp"
#endif

namespace moxie::conformance {

/// The kind computed by `K::run<B>(inputs, ranking)` on every backend B of this program.
template <class K>
Kind make_kind(std::string_view name, double float_tolerance = 1e-5) {
  Kind kind{.name = name, .float_tolerance = float_tolerance};
#if defined(MOXIE_TEST_CUDA)
  kind.run[device_double] = &K::template run<CudaBackend<double>>;
  kind.run[device_float] = &K::template run<CudaBackend<float>>;
#elif defined(MOXIE_EMULATED)
  kind.run[device_double] = &K::template run<test::EmulatedBackend<double>>;
  kind.run[device_float] = &K::template run<test::EmulatedBackend<float>>;
#else
  kind.run[cpu_double] = &K::template run<CpuBackend<double>>;
  kind.run[cpu_float] = &K::template run<CpuBackend<float>>;
#if defined(MOXIE_TEST_THRUST)
  kind.run[device_double] = &K::template run<ThrustHostBackend<double>>;
  kind.run[device_float] = &K::template run<ThrustHostBackend<float>>;
#endif
#endif
  return kind;
}

/// Reals of cases that iterate, in float.
inline constexpr double iterated = 1e-4;

}  // namespace moxie::conformance
