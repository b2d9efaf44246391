#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <vector>

namespace bench {

template <class F>
double seconds(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const std::size_t half = v.size() / 2;
  return v.size() % 2 == 1 ? v[half] : (v[half - 1] + v[half]) / 2;
}

/// How long times_in_turn() goes on: `least` rounds, then more until the budget is spent or there are `most`.
struct Rounds {
  std::size_t least = 5;
  std::size_t most = 101;
  double budget = 0.2;  ///< seconds
};

/// A function to be timed, and what has to be done before it, untimed.
struct Timed {
  std::function<void()> run;
  std::function<void()> before{};
};

/// Seconds of each function in each round, [function][round]. They are taken in turn, so that a change of the machine's speed
/// meets all, and each finds the caches as the others leave them. A first round is not counted.
inline std::vector<std::vector<double>> times_in_turn(const Rounds& rounds,
                                                      const std::vector<Timed>& functions) {
  std::vector<std::vector<double>> times(functions.size());
  const auto once = [](const Timed& f) {
    if (f.before) f.before();
    return seconds(f.run);
  };
  for (const Timed& f : functions) once(f);
  double spent = 0;
  for (std::size_t n = 0; n < rounds.least || (spent < rounds.budget && n < rounds.most); ++n) {
    for (std::size_t i = 0; i < functions.size(); ++i) {
      times[i].push_back(once(functions[i]));
      spent += times[i].back();
    }
  }
  return times;
}
/// Median seconds of each function, taken in turn.
template <class... F>
std::array<double, sizeof...(F)> medians_in_turn(const Rounds& rounds, const F&... f) {
  const auto times = times_in_turn(rounds, {Timed{std::cref(f)}...});
  std::array<double, sizeof...(F)> medians{};
  for (std::size_t i = 0; i < medians.size(); ++i) medians[i] = median(times[i]);
  return medians;
}
/// Median time of `part` over that of `whole`.
template <class Whole, class Part>
double share_of_time(const Whole& whole, const Part& part) {
  const auto [of_whole, of_part] = medians_in_turn({}, whole, part);
  return of_part / of_whole;
}

}  // namespace bench
