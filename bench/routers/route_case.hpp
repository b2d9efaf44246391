#pragma once

#include "measure.hpp"

namespace bench {

struct RouteFixture {
  std::unique_ptr<RoutingAlone> routing;
  RoutingFacts facts;

  RouteFixture(const Case& c, const Setup& setup) : routing(make_routing_alone(c, setup)) {
    facts = facts_of(*routing, make_logits(c.logits, setup.options, c.tokens, c.experts),
                     setup.backend);
  }
  void run(bool backward) {
    if (backward) return routing->route_backward();
    routing->route();
  }
};

/// A router and its slots on given logits. Nothing here is a product, so there is no FLOP/s.
inline void run_route(benchmark::State& state, const std::string& name, const Case& c,
                      const Setup& setup) {
  RouteFixture& f = fixture<RouteFixture>(name, c, setup);
  for (auto _ : state) f.run(c.backward);
  count_tokens(state, c.tokens);
  count_facts(state, f.facts, c.tokens);
}

}  // namespace bench
