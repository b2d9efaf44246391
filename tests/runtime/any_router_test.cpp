// What a layer asks of a router whose type is chosen at run time.
#include "moxie/runtime/any_router.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "moxie/expert/feed_forward.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/router/top_k.hpp"
#include "moxie/runtime/any_capacity.hpp"
#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/kernels.hpp"

namespace any_router_test {

using namespace moxie;
using test::message_of;
using B = CpuBackend<double>;

namespace {

/// A router of one piece, as a researcher may write it: it has `route`, not its three parts.
struct Whole {
  template <Backend Own>
  using Routing = SparseRouting<Own>;

  TopKRouter inner{.k = 1};

  Index choices(Index experts) const { return inner.choices(experts); }
  Index assignments(const RoutingShape& s) const { return inner.assignments(s); }
  template <Backend Own>
  void route(Own& b, const Context<Own>& ctx, SparseRouting<Own>& r) const {
    inner.route(b, ctx, r);
  }
  template <Backend Own>
  void route_backward(Own& b, const Context<Own>& ctx, const SparseRouting<Own>& r,
                      RoutingGradients<SparseRouting<Own>>& g) const {
    inner.route_backward(b, ctx, r, g);
  }
};

auto make(B& backend, const AnyRouter<B>& router, const char* overflow) {
  return MoeLayer{backend, MoeShape{.width = 2, .experts = 3, .seed = 1},
                  WithGate{AnyGate<B>(LinearGate{}), router},
                  WithOverflow{make_overflow(overflow), FixedCapacity{2}},
                  FeedForward<Gelu>{.hidden = 2}};
}

}  // namespace

TEST_CASE("AnyRouter says whether its router is made of score, select and weigh") {
  CHECK(AnyRouter<B>(TopKRouter{}).composed());
  CHECK_FALSE(AnyRouter<B>(Whole{}).composed());
}

TEST_CASE("a router of one piece cannot follow an overflow to the next choice") {
  B backend;
  CHECK(message_of<config_error>([&] { (void)make(backend, Whole{}, "next_choice"); }) ==
        "moxie::MoeLayer: the capacity gives overflowing choices another expert, but this router "
        "has no weigh");
  CHECK(message_of([&] { (void)make(backend, TopKRouter{}, "next_choice"); }) == "no error");
}

TEST_CASE(
    "a router of one piece routes, and refuses routes from outside before anything is written") {
  B backend;
  const auto layer = make(backend, Whole{}, "drop");
  const auto reference = make(backend, TopKRouter{.k = 1}, "drop");
  const std::vector<double> x{0.5, -1, 2, 0.25, -0.75, 1};
  std::vector<double> y(6);
  std::vector<double> wanted(6);
  auto tape = layer.make_tape(3);
  auto reference_tape = reference.make_tape(3);
  layer.forward({x.data(), 3, 2}, {y.data(), 3, 2}, tape);
  reference.forward({x.data(), 3, 2}, {wanted.data(), 3, 2}, reference_tape);
  CHECK(y == wanted);
  const Routes<B> best{.rank = 0};
  CHECK(message_of<config_error>([&] {
          layer.forward({x.data(), 3, 2}, {y.data(), 3, 2}, tape, Pass<B>{}.with({&best, 1}));
        }) ==
        "moxie::MoeLayer::forward: pass.routes: this router has no score and weigh, so it cannot "
        "take choices from outside");
  CHECK(y == wanted);
  layer.backward({x.data(), 3, 2}, {}, tape);  // the pass before is still there
}

}  // namespace any_router_test
