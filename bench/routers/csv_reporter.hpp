#pragma once

#include <benchmark/benchmark.h>

#include <array>
#include <limits>
#include <vector>

namespace bench {

/// All counters of all rows.
inline constexpr std::array counter_names = {
    "tokens_per_second", "FLOP/s",  "rows_per_token", "routing_share", "drop_rate",
    "load_cv",           "entropy", "route_change",   "overhead",      "visit_share"};

// Google Benchmark marks its CSV for removal; it is there in every version so far.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

/// Google Benchmark's CSV takes its columns from the first row and gives up at a counter that another brings. Here every row
/// has all of them, nan where one says nothing.
class CsvReporter final : public benchmark::CSVReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> full = runs;
    for (Run& run : full)
      for (const char* name : counter_names)
        run.counters.try_emplace(name, std::numeric_limits<double>::quiet_NaN());
    CSVReporter::ReportRuns(full);
  }
};

#pragma GCC diagnostic pop

}  // namespace bench
