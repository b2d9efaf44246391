#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "context.hpp"
#include "cpu/layer_rows.hpp"
#include "cpu/products_rows.hpp"
#include "cpu/stage_rows.hpp"
#include "cpu/step_rows.hpp"

namespace {

using bench::CpuRun;

struct Row {
  std::string_view name;
  void (*measure)(CpuRun&);
};
constexpr Row rows[] = {
    {"peak", bench::peak_row},
    {"products/1024", [](CpuRun& run) { bench::products_rows(run, run.size(1024, 64)); }},
    {"products/64", [](CpuRun& run) { bench::products_rows(run, run.size(64, 16)); }},
    {"products/16", [](CpuRun& run) { bench::products_rows(run, run.size(16, 8)); }},
    {"products/packing", bench::packing_row},
    {"layer", bench::layer_row},
    {"dense", bench::dense_row},
    {"experts", bench::experts_row},
    {"tokens", bench::tokens_row},
    {"threads", bench::threads_row},
    {"stages", bench::stages_row},
    {"routing", bench::routing_row},
    {"bf16", bench::bf16_row},
    {"torch", bench::torch_row},
    {"allocations", bench::allocations_row},
    {"scratch", bench::scratch_row},
};

enum Exit { exit_good = 0, exit_failed = 1, exit_usage = 2 };

int run(int argc, char** argv) {
  CpuRun run(bench::parse_cpu_bench(argc, argv));
  if (run.options.help) {
    std::fputs(std::string(bench::cpu_bench_usage).c_str(), stdout);
    return exit_good;
  }
  std::vector<std::string_view> names;
  for (const Row& row : rows) names.push_back(row.name);
  const std::vector<std::string_view> wanted = bench::matching_rows(run.options.rows, names);
  if (run.options.list) {
    for (const std::string_view name : wanted) std::printf("%s\n", std::string(name).c_str());
    return exit_good;
  }
  // Before the work, whose results might have nowhere to go.
  if (!run.options.json.empty()) const moxie::AtomicFile probe(run.options.json, "--json");

  for (const Row& row : rows)
    for (const std::string_view name : wanted)
      if (row.name == name) row.measure(run);
  run.report.print_bars();
  if (!run.options.json.empty()) {
    bench::add_context(bench::command_of(argc, argv), std::string(bench::cpu_seeds));
    benchmark::AddCustomContext("instructions", moxie::to_string(moxie::machine_level()));
    benchmark::AddCustomContext("quick",
                                run.options.quick ? "yes: these times mean nothing" : "no");
    run.report.write(run.options.json);
  }
  return exit_good;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const moxie::config_error& e) {
    std::fprintf(stderr, "bench_cpu: %s\n", e.what());
    return exit_usage;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_cpu: %s\n", e.what());
    return exit_failed;
  }
}
