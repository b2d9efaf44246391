#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../timing.hpp"
#include "moxie/backend/cpu.hpp"
#include "moxie/backend/thread_pool.hpp"
#include "options.hpp"
#include "report.hpp"

namespace bench {

using B = moxie::CpuBackend<float>;
using moxie::Index;

/// What random numbers are drawn from; no option changes it.
inline constexpr std::string_view cpu_seeds =
    "fixed: parameters and logits 1, input 2, gradients 6, weights of bare products 7 and 8, "
    "images 2";

/// Threads, and a backend on them. They sleep while other ones work.
struct Workers {
  moxie::ThreadPool pool;
  B backend;
  explicit Workers(int threads) : pool(threads), backend(pool) {}
  int threads() const { return pool.workers(); }
};

/// A function of a row, and what it is counted by.
struct Candidate {
  std::string name;
  Workers& on;
  Timed timed;
  double flops = 0;
  double tokens = 0;
  int times = 1;  ///< how often `timed.run` does what is measured
};

/// What the rows of a run share.
struct CpuRun {
  CpuBenchOptions options;
  CpuReport report{};

  explicit CpuRun(CpuBenchOptions asked) : options(std::move(asked)) {}
  /// `full`, or with --quick a size that takes no time.
  Index size(Index full, Index quick) const { return options.quick ? quick : full; }
  /// For functions that take milliseconds.
  Rounds rounds() const {
    return options.quick ? Rounds{.least = 2, .most = 2, .budget = 0}
                         : Rounds{.least = 7, .most = 51, .budget = 4};
  }
  /// For functions that take seconds.
  Rounds few_rounds() const {
    return options.quick ? rounds() : Rounds{.least = 5, .most = 11, .budget = 10};
  }

  /// Times the candidates in turn and reports each. [candidate][round]: seconds, once.
  std::vector<std::vector<double>> measure(const Rounds& how, const std::vector<Candidate>& all) {
    std::vector<Timed> functions;
    for (const Candidate& c : all) functions.push_back(c.timed);
    std::vector<std::vector<double>> times = times_in_turn(how, functions);
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (double& t : times[i]) t /= all[i].times;
      report.add(
          Measurement{all[i].name, all[i].on.threads(), times[i], all[i].flops, all[i].tokens});
    }
    return times;
  }
};

/// Median over rounds of a / b: two functions of one round met the same machine.
inline double ratio_of(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  return median(ratios);
}

}  // namespace bench
