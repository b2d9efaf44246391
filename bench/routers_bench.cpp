#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

#include "context.hpp"
#include "moxie/io/atomic_file.hpp"
#include "routers/csv_reporter.hpp"
#include "routers/layer_case.hpp"
#include "routers/route_case.hpp"
#include "routers/telemetry_case.hpp"

namespace {

using bench::B;

/// A router of your own joins with one line here, and is then measured beside all others: alone, in a layer, under each
/// distribution of logits. `bench_routers --routers mine,softmax_token_choice` compares it.
moxie::RouterRegistry<B> routers() {
  moxie::RouterRegistry<B> registry;
  // registry.add("mine", [](const moxie::RouterConfig& c) -> moxie::AnyRouter<B> { return MyRouter{.k = c.k}; });
  return registry;
}

enum Exit { exit_good = 0, exit_failed = 1, exit_usage = 2 };

/// A row that cannot be measured is shown as an error, and the others go on.
bool any_failed = false;
template <class F>
void guarded(benchmark::State& state, const F& f) {
  try {
    f();
  } catch (const std::exception& e) {
    any_failed = true;
    state.SkipWithError(e.what());
  }
}

void run_case(benchmark::State& state, const std::string& name, const bench::Case& c,
              const bench::Setup& setup) {
  guarded(state, [&] {
    if (c.family == "route") return bench::run_route(state, name, c, setup);
    if (c.is_dense()) return bench::run_dense(state, name, c, setup);
    if (c.is_loop()) return bench::run_loop(state, name, c, setup);
    bench::run_layer(state, name, c, setup);
  });
}

void register_all(const bench::Setup& setup) {
  for (const bench::Case& c : bench::cases_of(setup)) {
    const std::string name = bench::name_of(c, setup.options);
    benchmark::RegisterBenchmark(
        name.c_str(),
        [name, c, &setup](benchmark::State& state) { run_case(state, name, c, setup); })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  const auto& families = setup.options.families;
  const bool wanted = std::find(families.begin(), families.end(), "telemetry") != families.end();
  if (!wanted && (setup.options.chooses() && !setup.options.all)) return;
  const std::string name = bench::telemetry_name();
  benchmark::RegisterBenchmark(name.c_str(),
                               [name, &setup](benchmark::State& state) {
                                 guarded(state, [&] { bench::run_telemetry(state, name, setup); });
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

/// Google Benchmark's own arguments, with ours translated.
std::vector<std::string> arguments_of(const bench::Options& o, const char* program) {
  std::vector<std::string> out = {program, "--benchmark_min_time=0.4"};
  if (!o.json.empty()) {
    out.push_back("--benchmark_out=" + o.json);
    out.emplace_back("--benchmark_out_format=json");
  }
  out.insert(out.end(), o.for_google_benchmark.begin(), o.for_google_benchmark.end());
  return out;
}

int run(int argc, char** argv) {
  bench::Options options = bench::parse(argc, argv);
  if (options.help) {
    std::fputs(std::string(bench::usage).c_str(), stdout);
    return exit_good;
  }
  // Before the work, whose results might have nowhere to go.
  if (!options.json.empty()) const moxie::AtomicFile probe(options.json, "--json");

  const bench::Setup setup(std::move(options), routers());
  register_all(setup);
  std::vector<std::string> arguments = arguments_of(setup.options, argv[0]);
  std::vector<char*> pointers;
  for (std::string& a : arguments) pointers.push_back(a.data());
  int count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  if (count > 1) moxie::throw_config("there is no argument '", pointers[1], "', see --help");
  bench::add_context(bench::command_of(argc, argv), std::string(bench::seeds));
  benchmark::AddCustomContext("threads_used", std::to_string(setup.options.threads));
  benchmark::AddCustomContext("instructions", moxie::to_string(setup.backend.level()));
  bench::CsvReporter csv_display, csv_file;
  const std::size_t measured = benchmark::RunSpecifiedBenchmarks(
      setup.options.asks_google_for("--benchmark_format=csv") ? &csv_display : nullptr,
      setup.options.asks_google_for("--benchmark_out_format=csv") ? &csv_file : nullptr);
  benchmark::Shutdown();
  if (measured == 0) moxie::throw_config("--benchmark_filter: no row has such a name");
  return any_failed ? exit_failed : exit_good;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const moxie::config_error& e) {
    std::fprintf(stderr, "bench_routers: %s\n", e.what());
    return exit_usage;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_routers: %s\n", e.what());
    return exit_failed;
  }
}
