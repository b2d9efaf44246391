#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "support/backends.hpp"

/// What the tests of layers share.
#if defined(MOXIE_TEST_THRUST)
#define MOXIE_DOUBLE_BACKENDS ::moxie::CpuBackend<double>, ::moxie::ThrustHostBackend<double>
#else
#define MOXIE_DOUBLE_BACKENDS ::moxie::CpuBackend<double>
#endif

namespace moxie::test {

/// Gradients and laws of a layer. Allocations are counted on the CPU backend, which promises none.
template <class L>
void check_layer(const L& layer, Index rows,
                 testing::GradientOptions<typename L::BackendType> options = {}) {
  using B = typename L::BackendType;
  if constexpr (std::is_same_v<B, CpuBackend<double>>)
    options.allocations = [] { return static_cast<std::size_t>(allocations()); };
  const testing::GradientReport report = testing::check_gradients(layer, rows, options);
  CHECK_MESSAGE(report.passed, report.message);
}

/// y of one forward, row after row.
template <class L>
std::vector<double> outputs(const L& layer, const std::vector<double>& x, Index rows,
                            Pass<typename L::BackendType> pass = {}) {
  using B = typename L::BackendType;
  using T = typename B::Scalar;
  B& backend = layer.parameters().backend();
  Buffer<T, B> in(backend, std::vector<T>(x.begin(), x.end()));
  Buffer<T, B> out(backend, rows * layer.output_width(), T(0));
  auto tape = make_tape(layer, rows, Gradients::none);
  layer.forward(in.view(rows, layer.input_width()), out.view(rows, layer.output_width()), tape,
                pass);
  const std::vector<T> y = out.to_vector();
  return {y.begin(), y.end()};
}

/// Sets an entry's values.
template <Backend B>
void set_parameter(Parameters<B>& parameters, std::string_view name,
                   const std::vector<double>& values) {
  using T = typename B::Scalar;
  for (const ParameterEntry& e : parameters.entries()) {
    if (e.name != name) continue;
    REQUIRE(e.size() == static_cast<Index>(values.size()));
    const std::vector<T> host(values.begin(), values.end());
    parameters.backend().copy_from_host(parameters.edit().data + e.offset, host.data(),
                                        host.size() * sizeof(T));
    return;
  }
  FAIL("no parameter of that name");
}

template <class T>
inline constexpr double tolerance = sizeof(T) == sizeof(float) ? 1e-5 : 1e-12;

/// Element by element, relative to sizes above 1.
inline void check_near(const std::vector<double>& a, const std::vector<double>& b, double by) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(std::fabs(a[i] - b[i]) <= by * std::fmax(1.0, std::fabs(b[i])));
  }
}

}  // namespace moxie::test
