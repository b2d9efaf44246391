#pragma once

#include "conformance/case.hpp"
#include "support/kernels.hpp"
#if defined(MOXIE_TEST_THRUST)
#include "moxie/backend/thrust_host.hpp"
#endif

namespace moxie::conformance {

/// The kind computed by `K::run<B>(inputs, ranking)` on every backend B.
template <class K>
Kind make_kind(std::string_view name, double float_tolerance = 1e-5) {
  Kind kind{.name = name, .float_tolerance = float_tolerance};
  kind.run[cpu_double] = &K::template run<CpuBackend<double>>;
  kind.run[cpu_float] = &K::template run<CpuBackend<float>>;
#if defined(MOXIE_TEST_THRUST)
  kind.run[thrust_double] = &K::template run<ThrustHostBackend<double>>;
  kind.run[thrust_float] = &K::template run<ThrustHostBackend<float>>;
#endif
  return kind;
}

/// Reals of cases that iterate, in float.
inline constexpr double iterated = 1e-4;

}  // namespace moxie::conformance
