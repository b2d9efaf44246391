#pragma once

#include <benchmark/benchmark.h>

#include <string>
#include <utility>

#include "context.hpp"

namespace bench {

/// Benchmarks of the presets nano and ti, each with one thread and with two (range(0)). They set their own time, and one
/// iteration is one measurement of several rounds.
inline void register_presets(void (*nano)(benchmark::State&), void (*ti)(benchmark::State&)) {
  for (const auto& [name, function] : {std::pair{"nano", nano}, std::pair{"ti", ti}})
    benchmark::RegisterBenchmark(name, function)
        ->ArgName("threads")
        ->Arg(1)
        ->Arg(2)
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
}

/// The exit code of a program that runs what is registered. `command` and `seed` as in add_context.
inline int run_registered(int argc, char** argv, const std::string& command,
                          const std::string& seed) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  add_context(command, seed);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace bench
