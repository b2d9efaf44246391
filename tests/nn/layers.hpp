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
#include "support/numbers.hpp"
#include "support/parameters.hpp"

/// What the tests of layers share.
namespace moxie::test {

using testing::tolerance;

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

}  // namespace moxie::test
