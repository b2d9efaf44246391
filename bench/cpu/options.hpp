#pragma once

#include <algorithm>
#include <charconv>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/runtime/unknown_name.hpp"

namespace bench {

/// What the command line of bench_cpu asks for.
struct CpuBenchOptions {
  bool help = false;
  bool list = false;
  bool quick = false;
  std::string rows = "";  ///< regular expression; a row whose name it is found in is measured
  std::string json;       ///< file for the results; empty: none
  std::vector<int> threads = {1, 2};
};

inline constexpr std::string_view cpu_bench_usage =
    R"(bench_cpu: products, layers and steps on the CPU beside oneDNN, Eigen and the machine's peak, and the bars they are held to

  bench_cpu                      all rows with 1 and 2 threads: about twenty minutes and 12 GiB on two cores
  bench_cpu --rows '^products'   the rows whose names match; --list names them
  bench_cpu --quick              tiny sizes, two rounds: shows that all runs; its ratios mean nothing

  --rows PATTERN   regular expression (ECMAScript), found anywhere in the name
  --threads LIST   1,2
  --json FILE      also as JSON: each round of each measurement as Google Benchmark writes repetitions, and the bars
)";

/// @throws config_error for an argument that there is not or a value that makes no sense
inline CpuBenchOptions parse_cpu_bench(int argc, const char* const* argv) {
  CpuBenchOptions o;
  const std::vector<std::string_view> known = {"--help", "--list",    "--quick",
                                               "--rows", "--threads", "--json"};
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const std::size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    if (std::find(known.begin(), known.end(), name) == known.end())
      moxie::throw_config("there is no argument '", name, "'", moxie::suggestion(name, known),
                          ", see --help");
    const bool is_switch = name == "--help" || name == "--list" || name == "--quick";
    if (is_switch && equals != std::string_view::npos) moxie::throw_config(name, " takes no value");
    if (name == "--help") o.help = true;
    if (name == "--list") o.list = true;
    if (name == "--quick") o.quick = true;
    if (is_switch) continue;
    if (equals == std::string_view::npos && i + 1 == argc)
      moxie::throw_config(name, ": its value is missing");
    const std::string value(equals == std::string_view::npos ? argv[++i]
                                                             : argument.substr(equals + 1));
    if (name == "--rows") o.rows = value;
    if (name == "--json") o.json = value;
    if (name != "--threads") continue;
    o.threads.clear();
    for (std::size_t begin = 0; begin <= value.size();) {
      const std::size_t end = std::min(value.find(',', begin), value.size());
      int n = 0;
      const char* const last = value.data() + end;
      const auto [stop, error] = std::from_chars(value.data() + begin, last, n);
      if (error != std::errc{} || stop != last || n < 1 || n > 1024)
        moxie::throw_config("--threads: '", value.substr(begin, end - begin),
                            "' is no whole number from 1 to 1024");
      o.threads.push_back(n);
      begin = end + 1;
    }
  }
  return o;
}

/// The names that `pattern` is found in.   @throws config_error for a pattern that is none, or that no name has
inline std::vector<std::string_view> matching_rows(const std::string& pattern,
                                                   const std::vector<std::string_view>& names) {
  std::vector<std::string_view> found;
  try {
    const std::regex expression(pattern);
    for (const std::string_view name : names)
      if (std::regex_search(name.begin(), name.end(), expression)) found.push_back(name);
  } catch (const std::regex_error&) {
    moxie::throw_config("--rows: '", pattern, "' is no regular expression");
  }
  if (found.empty())
    moxie::throw_config("--rows: no row has a name like '", pattern, "', see --list");
  return found;
}

}  // namespace bench
