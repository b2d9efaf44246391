// The parts of a list of regularizers made at run time, as a visitor of a layer sees them.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "moxie/capacity/factor.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_regularizers.hpp"
#include "support/backends.hpp"

namespace loss_parts_test {

using namespace moxie;

namespace {

using B = CpuBackend<double>;

struct Parts final : RoutingVisitor<B> {
  void losses(std::span<const std::string_view> n, ConstVector<B> v) override {
    all.assign(n.begin(), n.end());
    sum = 0;
    for (Index i = 0; i < v.size; ++i) sum += v[i];
  }
  void loss_parts(std::span<const std::string_view> n, ConstVector<B> v) override {
    ++calls;
    names.assign(n.begin(), n.end());
    values.assign(v.data, v.data + v.size);
  }
  int calls = 0;
  std::vector<std::string> all, names;
  std::vector<double> values;
  double sum = 0;
};

/// What a visitor sees after a forward of 4 tokens.
template <class... A>
Parts visit(Mode mode, A... regularizer) {
  B backend;
  const MoeLayer layer{backend,
                       MoeShape{.width = 2, .experts = 3, .group = 4, .seed = 1},
                       TopKRouter{.k = 2},
                       CapacityFactor{},
                       FeedForward<Gelu>{.hidden = 2},
                       regularizer...};
  const test::Buffer<double, B> x(backend, {0.3, -1, 2, 0.5, -0.7, 0.1, 1, 1});
  const test::Buffer<double, B> y(backend, 8, 0);
  auto tape = layer.make_tape(4);
  layer.forward(x.view(4, 2), y.view(4, 2), *tape, {.mode = mode});
  Parts parts;
  layer.visit_routing(*tape, parts);
  return parts;
}

}  // namespace

TEST_CASE("a visitor sees the losses of a list one by one, and their sum") {
  const Importance importance{.weight = 0.3};
  const RouterZ z{.weight = 0.1};
  const Parts any = visit(Mode::train, AnyRegularizers<B>{importance, z});
  CHECK(any.calls == 1);
  CHECK(any.all == std::vector<std::string>{"regularizers"});
  CHECK(any.names == std::vector<std::string>{"importance", "router_z"});
  REQUIRE(any.values.size() == 2);
  CHECK(any.values[0] == doctest::Approx(visit(Mode::train, importance).sum));
  CHECK(any.values[1] == doctest::Approx(visit(Mode::train, z).sum));
  CHECK(any.values[0] > 0);
  CHECK(any.sum == doctest::Approx(any.values[0] + any.values[1]));
}

TEST_CASE("there are no parts without a list, or where losses were not asked for") {
  CHECK(visit(Mode::train, Importance{}, RouterZ{}).calls == 0);
  const Parts evaluated = visit(Mode::eval, AnyRegularizers<B>{Importance{}});
  CHECK(evaluated.calls == 0);
  CHECK(evaluated.sum == 0);
}

}  // namespace loss_parts_test
