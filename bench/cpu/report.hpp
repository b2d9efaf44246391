#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "../timing.hpp"
#include "moxie/io/atomic_file.hpp"

namespace bench {

/// Whether a ratio is as it should be, or why there is none. `no_peer`: what it is compared with is missing here;
/// `elsewhere`: another program measures it.
enum class BarState { met, missed, no_peer, elsewhere };

constexpr const char* to_string(BarState state) {
  switch (state) {
    case BarState::met:
      return "met";
    case BarState::missed:
      return "missed";
    case BarState::no_peer:
      return "no peer";
    default:
      return "elsewhere";
  }
}

enum class Direction { at_least, at_most };

/// One line of the table of bars. Texts are plain ASCII without quotes and backslashes.
struct Bar {
  std::string what;
  int threads = 0;  ///< 0: of no number of threads
  Direction direction = Direction::at_least;
  double limit = 0;
  std::optional<double> ratio{};
  BarState state = BarState::no_peer;  ///< replaced where there is a ratio
  std::string note{};
};

/// One function in all rounds. `name` is family/axis:value/..., as bench/compare.py reads it.
struct Measurement {
  std::string name;
  int threads = 1;
  std::vector<double> seconds;
  double flops =
      0;  ///< multiplications and additions of products, 2 for each pair of numbers multiplied; 0: not counted
  double tokens = 0;  ///< 0: not counted
};

/// Collects what the rows measure, prints it as it comes, and writes it all at the end.
class CpuReport {
 public:
  void add(Measurement m) {
    const double middle = median(m.seconds);
    if (measurements_.empty())
      std::printf("%-68s %7s %11s %9s %10s\n", "", "threads", "median ms", "GFLOP/s", "tokens/s");
    std::printf("%-68s %7d %11.3f", m.name.c_str(), m.threads, 1e3 * middle);
    m.flops > 0 ? std::printf(" %9.1f", m.flops / middle / 1e9) : std::printf(" %9s", "");
    if (m.tokens > 0) std::printf(" %10.0f", m.tokens / middle);
    std::printf("\n");
    std::fflush(stdout);
    measurements_.push_back(std::move(m));
  }
  void add(Bar bar) {
    if (bar.ratio)
      bar.state =
          (bar.direction == Direction::at_least ? *bar.ratio >= bar.limit : *bar.ratio <= bar.limit)
              ? BarState::met
              : BarState::missed;
    bars_.push_back(std::move(bar));
  }
  void print_bars() const {
    if (bars_.empty()) return;
    std::printf("\n%-9s %8s    %-8s %7s  %s\n", "bar", "ratio", "wanted", "threads", "what");
    for (const Bar& bar : bars_) {
      std::printf("%-9s ", to_string(bar.state));
      bar.ratio ? std::printf("%8.3f", *bar.ratio) : std::printf("%8s", "");
      std::printf(" %s %-8.3g", bar.direction == Direction::at_least ? ">=" : "<=", bar.limit);
      bar.threads > 0 ? std::printf(" %7d", bar.threads) : std::printf(" %7s", "");
      std::printf("  %s", bar.what.c_str());
      if (!bar.note.empty()) std::printf(" (%s)", bar.note.c_str());
      std::printf("\n");
    }
  }
  /// The form of Google Benchmark's results, a repetition for each round, with an array `bars` beside `benchmarks`.
  /// @throws io_error if the file cannot be written
  void write(const std::string& path) const {
    std::ostringstream out;
    benchmark::JSONReporter reporter;
    reporter.SetOutputStream(&out);
    reporter.SetErrorStream(&out);
    reporter.ReportContext({});
    std::int64_t family = 0;
    for (const Measurement& m : measurements_) reporter.ReportRuns(runs_of(m, family++));
    // Instead of Finalize(), which would end the object here.
    out << "\n  ],\n  \"bars\": [";
    for (std::size_t i = 0; i < bars_.size(); ++i) {
      out << (i == 0 ? "\n" : ",\n");
      write(out, bars_[i]);
    }
    out << "\n  ]\n}\n";
    const std::string text = out.str();
    moxie::AtomicFile file(path, "--json");
    file.write(text.data(), text.size());
    file.commit();
  }

 private:
  static std::vector<benchmark::BenchmarkReporter::Run> runs_of(const Measurement& m,
                                                                std::int64_t family) {
    std::vector<benchmark::BenchmarkReporter::Run> runs(m.seconds.size());
    for (std::size_t i = 0; i < runs.size(); ++i) {
      benchmark::BenchmarkReporter::Run& run = runs[i];
      run.run_name.function_name = m.name + "/threads:" + std::to_string(m.threads);
      run.family_index = family;
      run.per_family_instance_index = 0;
      run.repetitions = static_cast<std::int64_t>(runs.size());
      run.repetition_index = static_cast<std::int64_t>(i);
      run.time_unit = benchmark::kMillisecond;
      run.real_accumulated_time = m.seconds[i];
      run.cpu_accumulated_time = 0;  // of several threads, and not measured
      if (m.flops > 0) run.counters["FLOP/s"] = m.flops / m.seconds[i];
      if (m.tokens > 0) run.counters["tokens_per_second"] = m.tokens / m.seconds[i];
    }
    return runs;
  }
  static void write(std::ostream& out, const Bar& bar) {
    out << "    {\"what\": \"" << bar.what << "\", ";
    if (bar.threads > 0) out << "\"threads\": " << bar.threads << ", ";
    out << (bar.direction == Direction::at_least ? "\"at_least\": " : "\"at_most\": ") << bar.limit;
    if (bar.ratio) out << ", \"ratio\": " << *bar.ratio;
    out << ", \"state\": \"" << to_string(bar.state) << '"';
    if (!bar.note.empty()) out << ", \"note\": \"" << bar.note << '"';
    out << '}';
  }

  std::vector<Measurement> measurements_;
  std::vector<Bar> bars_;
};

}  // namespace bench
