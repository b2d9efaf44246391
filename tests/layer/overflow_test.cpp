// Overflow policies inside a layer.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/identity_overflow.hpp"
#include "moxie/capacity/next_choice.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/testing/gradcheck.hpp"
#include "moxie/testing/pass_through.hpp"
#include "support/backends.hpp"
#include "support/kernels.hpp"

namespace overflow_test {

using namespace moxie;
using B = CpuBackend<double>;

namespace {

std::vector<double> wave(Index n) {
  std::vector<double> x;
  for (Index i = 0; i < n; ++i) x.push_back(std::sin(0.7 * static_cast<double>(i) + 0.3));
  return x;
}

template <class O>
auto make_layer(B& cpu, O overflow) {
  return MoeLayer{cpu, MoeShape{.width = 4, .experts = 3, .seed = 3}, TopKRouter{.k = 2},
                  WithOverflow{overflow, FixedCapacity{2}}, FeedForward<Gelu>{.hidden = 5}};
}

}  // namespace

TEST_CASE("IdentityOverflow returns dropped weight to the token itself") {
  B cpu;
  const MoeLayer layer{cpu, MoeShape{.width = 2, .experts = 2, .seed = 1}, TopKRouter{.k = 2},
                       WithOverflow{IdentityOverflow{}, FixedCapacity{1}}, testing::PassThrough{}};
  auto tape = layer.make_tape(4);
  const std::vector<double> x = wave(8);
  std::vector<double> y(8);
  layer.forward({x.data(), 4, 2}, {y.data(), 4, 2}, tape, {});
  // With experts that return their rows and all weights of a token summing to 1, nothing is lost.
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == doctest::Approx(x[i]));
}

TEST_CASE("IdentityOverflow refuses experts of another output width") {
  B cpu;
  const auto make = [&] {
    (void)MoeLayer{cpu, MoeShape{.width = 2, .experts = 2, .seed = 1}, TopKRouter{.k = 1},
                   WithOverflow{IdentityOverflow{}, FixedCapacity{1}},
                   FeedForward<Gelu>{.hidden = 3, .output = 5}};
  };
  CHECK_THROWS_WITH_AS(
      make(),
      "moxie::MoeLayer: dropped weight is returned to the token itself "
      "(IdentityOverflow), but the experts map a width of 2 to 5, expected the same",
      config_error);
}

TEST_CASE("NextChoice drops less, and weighs by the gate of the expert that serves") {
  B cpu;
  const auto drop = make_layer(cpu, Drop{});
  const auto next = make_layer(cpu, NextChoice{});
  const std::vector<double> x(12, 0.5);  // all tokens want the same two experts of two slots
  std::vector<double> y(12);
  const auto kept = [&](const auto& layer) {
    auto tape = layer.make_tape(3);
    layer.forward({x.data(), 3, 4}, {y.data(), 3, 4}, tape, {});
    const auto& r = tape->routing;
    Index n = 0;
    for (Index t = 0; t < 3; ++t)
      for (Index k = 0; k < 2; ++k) {
        if (r.row(t, k) < 0) continue;
        ++n;
        CHECK(r.weight(t, k) == r.probs(t, r.choice(t, k)));
      }
    return n;
  };
  CHECK(kept(drop) == 4);
  CHECK(kept(next) == 5);  // the last token gets the third expert, and has no other left
}

TEST_CASE_TEMPLATE("overflow policies have the gradients of what they compute", O, Drop, NextChoice,
                   IdentityOverflow) {
  B cpu;
  const auto layer = make_layer(cpu, O{});
  const testing::GradientReport report = testing::check_gradients(layer, 6, {.pass = {}});
  CHECK_MESSAGE(report.passed, report.message);
}

TEST_CASE("recorded drops stay drops under NextChoice") {
  B cpu;
  const auto layer = make_layer(cpu, NextChoice{});
  auto tape = layer.make_tape(3);
  const std::vector<double> x = wave(12);
  std::vector<double> y(12);
  const std::vector<std::int32_t> choice{0, -1, 2, 1, -1, -1};
  const Routes<B> given{.choice = {choice.data(), 3, 2}};
  layer.forward({x.data(), 3, 4}, {y.data(), 3, 4}, tape, Pass<B>{}.with({&given, 1}));
  for (Index t = 0; t < 3; ++t)
    for (Index k = 0; k < 2; ++k)
      CHECK(tape->routing.choice(t, k) == choice[std::size_t(t * 2 + k)]);
}

}  // namespace overflow_test
