// Which products a backend that was told to round factors does round: those of layers and experts,
// and none of gates.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "device/reference.hpp"
#include "emulator/tf32_leaf.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/gate/cosine.hpp"
#include "moxie/gate/slot.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/linear.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/law_report.hpp"
#include "moxie/testing/pass_through.hpp"

namespace moxie::test::rounding_test {
namespace {

using B = Tf32Backend;

constexpr Index tokens = 9;
constexpr Index width = 7;

/// Result and gradients of a layer [tokens, width] to [tokens, out].
template <class Layer>
std::vector<float> pass(B& b, const Layer& layer, Index out) {
  const Buffer<float, B> x(b, numbers<float>(tokens * width, 1));
  const Buffer<float, B> dy(b, numbers<float>(tokens * out, 2));
  const Buffer<float, B> y(b, tokens * out, 0.0F);
  const Buffer<float, B> dx(b, tokens * width, 0.0F);
  auto tape = layer.make_tape(tokens);
  layer.parameters().zero_gradients();
  layer.forward(ConstMatrix<B>(x.view(tokens, width)), y.view(tokens, out), tape, Pass<B>{});
  layer.backward(ConstMatrix<B>(dy.view(tokens, out)), dx.view(tokens, width), tape);
  std::vector<float> all = y.to_vector();
  for (const auto& more :
       {dx.to_vector(), testing::detail::to_host(b, layer.parameters().gradients())})
    all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// A layer whose only products are those of its gate: its experts change nothing.
template <class Router, class Capacity>
std::vector<float> pass_of_gate(bool tf32, const Router& router, const Capacity& capacity) {
  B b(Tf32Leaf({.tf32 = tf32}));
  const MoeLayer layer{b, MoeShape{.width = width, .experts = 5, .seed = 3}, router, capacity,
                       testing::PassThrough{}};
  return pass(b, layer, width);
}
template <class Router, class Capacity>
void check_exact(const Router& router, const Capacity& capacity) {
  const auto exact = pass_of_gate(false, router, capacity);
  CHECK_FALSE(std::all_of(exact.begin(), exact.end(), [](float v) { return v == 0; }));
  CHECK(pass_of_gate(true, router, capacity) == exact);
}

TEST_CASE("Products of gates are exact where others are rounded, forward and backward") {
  check_exact(TopKRouter{.k = 2}, Dropless{});
  check_exact(WithGate{CosineGate{.projection = 3}, TopKRouter{.k = 2}}, Dropless{});
  check_exact(SoftRouter{}, FixedCapacity{2});
  check_exact(SoftRouter{.gate = SlotGate{.cosine = false}}, FixedCapacity{2});
}

TEST_CASE("gemm and batched_gemm are exact, products of layers and experts rounded if asked for") {
  // 1 + 2^-12 needs 12 bits of mantissa: tf32 rounds it to 1
  const float x = 1 + 1.0F / 4096;
  for (const bool tf32 : {false, true}) {
    B b(Tf32Leaf({.tf32 = tf32}));
    const Buffer<float, B> one(b, 4, 1.0F);
    const Buffer<float, B> a(b, 4, x);
    const Buffer<float, B> c(b, 4, 0.0F);
    b.gemm(Op::none, Op::none, 0.5F, a.view(2, 2), one.view(2, 2), 0.0F, c.view(2, 2));
    CHECK(c.to_vector() == std::vector<float>(4, x));
    b.batched_gemm(Op::none, Op::none, 0.5F, {a.view(2, 2), 1, 4}, {one.view(2, 2), 1, 4}, 0.0F,
                   {c.view(2, 2), 1, 4});
    CHECK(c.to_vector() == std::vector<float>(4, x));
    layer_product(b, Op::none, Op::transpose, ConstMatrix<B>(a.view(2, 2)),
                  ConstMatrix<B>(one.view(2, 2)), 0.0F, c.view(2, 2));
    const std::vector<float> rounded(4, tf32 ? 2.0F : 2 * x);
    CHECK(c.to_vector() == rounded);

    // two experts of a row each, as a strided product and as ragged rows
    const Buffer<float, B> w(b, 8, 1.0F);
    const Buffer<std::int32_t, B> offset(b, {0, 1, 2});
    for (const Index each : {1, 0}) {
      b.grouped_gemm({a.view(2, 2), {}, {}, offset.view(), 2, each}, Op::none, w.view(4, 2),
                     c.view(2, 2));
      CHECK(c.to_vector() == rounded);
    }
  }
}

TEST_CASE("A Linear is rounded forward and backward") {
  const auto pass_of = [](bool tf32) {
    B b(Tf32Leaf({.tf32 = tf32}));
    const Scope<B> scope = root(b);
    const Linear<B> layer(scope, width, 4);
    scope.parameters->initialize(1);
    const Buffer<float, B> x(b, numbers<float>(tokens * width, 1));
    const Buffer<float, B> dy(b, numbers<float>(tokens * 4, 2));
    const Buffer<float, B> y(b, tokens * 4, 0.0F);
    const Buffer<float, B> dx(b, tokens * width, 0.0F);
    const Buffer<std::byte, B> sums(b, Index(b.column_sums_bytes(tokens, 4)), std::byte{0});
    scope.parameters->zero_gradients();
    layer.apply(ConstMatrix<B>(x.view(tokens, width)), y.view(tokens, 4));
    layer.add_gradients(ConstMatrix<B>(x.view(tokens, width)), ConstMatrix<B>(dy.view(tokens, 4)),
                        sums.view());
    layer.input_gradient(ConstMatrix<B>(dy.view(tokens, 4)), dx.view(tokens, width));
    return std::vector{y.to_vector(), dx.to_vector(),
                       testing::detail::to_host(b, scope.parameters->gradient(0))};
  };
  const auto exact = pass_of(false);
  const auto rounded = pass_of(true);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    CAPTURE(i);
    const double error = largest_error(rounded[i], in_double(exact[i]));
    CHECK(error > 1e-5);
    CHECK(error < 4e-3);
  }
}

}  // namespace
}  // namespace moxie::test::rounding_test
