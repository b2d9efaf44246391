// A router of one's own: what a researcher writes, and what the library then does with it.
#include <cmath>
#include <cstdio>
#include <moxie/moxie.hpp>
#include <moxie/runtime/make_layer.hpp>
#include <moxie/testing/gradcheck.hpp>
#include <moxie/testing/router_laws.hpp>
#include <vector>

// [router]
template <moxie::Backend B>
struct DropSecond {  // one call a token
  moxie::SparseRouting<B> r;
  double share;

  MOXIE_HD void operator()(moxie::Index t) const {
    if (r.choice(t, 0) < 0) return;  // padding
    if (r.probs(t, r.choice(t, 1)) < share * r.probs(t, r.choice(t, 0))) r.choice(t, 1) = -1;
  }
};

/// Each token takes its best expert, and the next one if that is at least `share` as probable.
struct NearlyAsGoodRouter {
  template <moxie::Backend B>
  using Routing = moxie::SparseRouting<B>;
  double share = 0.8;

  moxie::Index choices(moxie::Index) const { return 2; }
  moxie::Index assignments(const moxie::RoutingShape& s) const { return 2 * s.tokens; }
  void check(moxie::Index experts) const { top.check(experts); }
  template <moxie::Backend B>
  void route(B& b, const moxie::Context<B>& ctx, moxie::SparseRouting<B>& r) const {
    top.score(b, ctx, r);
    top.select(b, ctx, r);
    b.for_each(r.shape.tokens, DropSecond<B>{r, share});
    top.weigh(b, ctx, r);
  }
  template <moxie::Backend B>
  void route_backward(B& b, const moxie::Context<B>& ctx, const moxie::SparseRouting<B>& r,
                      moxie::RoutingGradients<moxie::SparseRouting<B>>& g) const {
    top.route_backward(b, ctx, r, g);
  }
  static constexpr moxie::TopKRouter top{.k = 2};
};
// [router]

int main() {
  using B = moxie::CpuBackend<double>;
  B cpu;
  // It keeps the contract of routers, and its gradients are right.
  const NearlyAsGoodRouter router{.share = 0.7};
  const auto laws = moxie::testing::check_router_laws(cpu, router, {.cases = 200});
  std::printf("laws: %s\n", laws ? "kept" : laws.message.c_str());
  const moxie::MoeLayer layer{cpu,
                              {.width = 8, .experts = 4, .seed = 1},
                              router,
                              moxie::CapacityFactor{.factor = 1.25},
                              moxie::FeedForward<moxie::Gelu>{.hidden = 8},
                              moxie::SwitchBalance{.weight = 0.01}};
  const auto gradients = moxie::testing::check_gradients(layer, 12, {});
  std::printf("gradients: %s\n", gradients ? "right" : gradients.message.c_str());

  // With a name it is a choice at run time like the library's own.
  moxie::RouterRegistry<B> registry;
  registry.add("nearly_as_good", [](const moxie::RouterConfig&) -> moxie::AnyRouter<B> {
    return NearlyAsGoodRouter{.share = 0.7};
  });
  moxie::MoeConfig config;
  config.shape = {.width = 8, .experts = 4};
  config.router.name = "nearly_as_good";
  config.expert = {.kind = "swiglu", .hidden = 8};
  const moxie::AnyLayer<B> chosen = moxie::make_layer(moxie::root(cpu), config, registry);
  chosen.parameters().initialize(1);
  auto tape = moxie::make_tape(chosen, 64);
  std::vector<double> x(64 * 8), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.7 * static_cast<double>(i));
  chosen.forward({x.data(), 64, 8}, {y.data(), 64, 8}, tape, {});
  moxie::RoutingTelemetry<B> telemetry(cpu);
  telemetry.begin_pass();
  chosen.visit_routing(tape, telemetry);
  std::printf("experts of a token: %.2f\n", telemetry.read()[0].experts_per_token());
}
