#pragma once

#include <doctest/doctest.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "device/allocations.hpp"
#include "moxie/capacity/dropless.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/nn/mlp.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/law_report.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/numbers.hpp"

/// What the tests of layers around a MoE layer, and of networks inside one, share.
namespace moxie::test {

template <class B>
using PlainMoe = MoeLayer<B, TopKRouter, Dropless, FeedForward<Gelu>, Importance>;

template <class B>
PlainMoe<B> plain_moe(const Scope<B>& scope, Index width, Index output, double importance = 0.3) {
  return {scope,
          MoeShape{.width = width, .experts = 3},
          TopKRouter{.k = 2},
          Dropless{},
          FeedForward<Gelu>{.hidden = 6, .output = output},
          Importance{.weight = importance}};
}

/// Gradients and laws of a layer. Allocations are counted on the CPU backend, which promises none.
template <class L>
void check_layer(const L& layer, Index rows,
                 testing::GradientOptions<typename L::BackendType> options = {}) {
  using B = typename L::BackendType;
  if constexpr (std::is_same_v<B, CpuBackend<double>>)
    options.allocations = [] { return static_cast<std::size_t>(allocations()); };
  options.most_inputs = 60;
  options.most_per_entry = 12;
  const testing::GradientReport report = testing::check_gradients(layer, rows, options);
  CHECK_MESSAGE(report.passed, report.message);
}

/// y of one forward without gradients, row after row.
template <class L>
std::vector<double> outputs(const L& layer, const std::vector<double>& x,
                            const Pass<typename L::BackendType>& pass = {}) {
  using B = typename L::BackendType;
  B& backend = layer.parameters().backend();
  const Index rows = static_cast<Index>(x.size()) / layer.input_width();
  const testing::detail::OwnedMatrix<B> in(backend, rows, layer.input_width(), x);
  const testing::detail::OwnedMatrix<B> out(backend, rows, layer.output_width());
  auto tape = make_tape(layer, rows, Gradients::none);
  layer.forward(in.read(), out.view(), tape, pass);
  const auto y = out.get();
  return {y.begin(), y.end()};
}

/// The widths of routings, in the order in which a layer shows them.
template <class B>
struct SeenExperts final : RoutingVisitor<B> {
  void sparse(const SparseRouting<B>& r) override { experts.push_back(r.shape.experts); }
  std::vector<Index> experts;
};

}  // namespace moxie::test
