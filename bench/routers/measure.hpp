#pragma once

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "../timing.hpp"
#include "moxie/routing/statistics.hpp"
#include "routing_alone.hpp"

namespace bench {

/// How a case routes: facts of its logits and its rule, the same in every pass.
struct RoutingFacts {
  moxie::RoutingStatistics statistics;
  /// Share of tokens whose set of experts changes under route_noise; -1: no sets.
  double route_change = -1;
  double rows = 0;  ///< that experts compute: assignments with a slot; soft: all slots
};
/// Leaves the routing of `logits` in `routing`.
inline RoutingFacts facts_of(RoutingAlone& routing, const std::vector<float>& logits, B& backend) {
  RoutingFacts facts;
  std::vector<float> noisy = normal_numbers(static_cast<Index>(logits.size()), 3);
  for (std::size_t i = 0; i < noisy.size(); ++i)
    noisy[i] = logits[i] + static_cast<float>(route_noise) * noisy[i];
  routing.set_logits(noisy);
  routing.route();
  const auto changed = routing.expert_sets();
  routing.set_logits(logits);
  routing.route();
  const auto sets = routing.expert_sets();
  Index differ = 0;
  for (std::size_t t = 0; t < sets.size(); ++t) differ += sets[t] == changed[t] ? 0 : 1;
  if (!sets.empty())
    facts.route_change = static_cast<double>(differ) / static_cast<double>(sets.size());
  moxie::RoutingTelemetry<B> telemetry(backend);
  telemetry.begin_pass();
  routing.visit(telemetry);
  facts.statistics = telemetry.read().at(0);
  if (routing.mixes()) {
    facts.rows = static_cast<double>(routing.shape().rows);
  } else {
    for (const double kept : facts.statistics.kept) facts.rows += kept;
  }
  return facts;
}

inline void count_tokens(benchmark::State& state, Index tokens) {
  state.counters["tokens_per_second"] = benchmark::Counter(
      static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
}
/// Times compare equal work of experts only between rows where this is equal.
inline void count_rows(benchmark::State& state, double rows, Index tokens) {
  state.counters["rows_per_token"] = rows / static_cast<double>(tokens);
}
/// Multiplications and additions of the products, 2 for each pair of numbers multiplied: rows that have a slot, not the room
/// for them; softmax, sorts, activations and copies are work that nobody counts. A backward does twice the forward's.
inline void count_flops(benchmark::State& state, double forward, bool backward) {
  state.counters["FLOP/s"] = benchmark::Counter(forward * (backward ? 3 : 1),
                                                benchmark::Counter::kIsIterationInvariantRate);
}
inline void count_facts(benchmark::State& state, const RoutingFacts& facts, Index tokens) {
  count_rows(state, facts.rows, tokens);
  state.counters["drop_rate"] = facts.statistics.drop_rate();
  state.counters["load_cv"] = facts.statistics.coefficient_of_variation();
  state.counters["entropy"] = facts.statistics.gate_entropy;
  if (facts.route_change >= 0) state.counters["route_change"] = facts.route_change;
}

/// Google Benchmark calls a benchmark several times until it knows how often to repeat it: what was made for one row is
/// kept until the next row makes its own. A first pass is made here: it pays for the pages that the system has not given yet,
/// and where rows are interleaved each repetition makes its own.
template <class Fixture>
Fixture& fixture(const std::string& name, const Case& c, const Setup& setup) {
  if (setup.kept_name != name) {
    setup.kept.reset();
    const auto made = std::make_shared<Fixture>(c, setup);
    if constexpr (requires { made->run(c.backward); }) made->run(c.backward);
    setup.kept = made;
    setup.kept_name = name;
  }
  return *static_cast<Fixture*>(setup.kept.get());
}

}  // namespace bench
