#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "moxie/core/view.hpp"
#include "moxie/runtime/unknown_name.hpp"

namespace bench {

using moxie::Index;

/// What the command line asks for. Empty lists: not given.
struct Options {
  bool help = false;
  bool all = false;
  std::vector<std::string> families, routers, capacities, logits, passes;
  std::vector<Index> experts, tokens;
  Index k = 2;         ///< K of the routers that have one
  Index group = 256;   ///< S
  Index width = 128;   ///< D
  Index hidden = 512;  ///< H
  Index threads = 1;
  std::string trace;      ///< file of moxie::save_routes; empty: none
  Index trace_layer = 0;  ///< which of its layers
  std::string json;       ///< file for the results; empty: none
  std::vector<std::string> for_google_benchmark;

  bool asks_google_for(std::string_view argument) const {
    return std::find(for_google_benchmark.begin(), for_google_benchmark.end(), argument) !=
           for_google_benchmark.end();
  }
  bool chooses() const {
    return !families.empty() || !routers.empty() || !capacities.empty() || !logits.empty() ||
           !passes.empty() || !experts.empty() || !tokens.empty();
  }
};

inline constexpr std::string_view usage =
    R"(bench_routers: routers, alone and in whole layers, and what they are to be compared with

  bench_routers                       a selection that takes a few minutes on two cores
  bench_routers --routers hash,soft --experts 8,64
                                      the product of the values given; axes not given: all routers, both passes,
                                      rows-K, zipf, 32 experts, 4096 tokens
  bench_routers --all --benchmark_filter=layer.*experts:128
                                      the product of all values; --benchmark_list_tests lists it

  --families    route (a router alone, on given logits), layer (a whole layer), telemetry
  --routers     names of the registry, soft; layer only: dense, naive_loop, eigen_loop
  --capacities  rows-N (of any router: slots for N rows a token), RULE-FACTOR, dropless or slots-N; then -PRIORITY,
                -OVERFLOW: ceil-1.25, vmoe-1.05-bpr, ceil-1-next_choice
  --logits      uniform, zipf, hotspot (80 % want one expert), collapse (all do), trace
  --experts, --tokens
  --passes      forward, backward (of a layer: forward and backward)

  --k N (2)  --group N (256)  --width N (128)  --hidden N (512)
  --threads N       (all cores)
  --trace FILE      routes that moxie::save_routes wrote, for --logits trace;  --trace-layer N (0)
  --json FILE       --benchmark_out=FILE --benchmark_out_format=json
  --benchmark_...   Google Benchmark's own: _filter=REGEX, _list_tests, _repetitions=N, _format=csv, _out=FILE, _out_format=csv,
                    _min_time=SECONDS (here 0.4)

Rows are named family/axis:value/...; bench/compare.py makes tables and pages of results.
)";

namespace detail {
inline std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = text.find(at, begin);
    out.emplace_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) break;
    begin = end + 1;
  }
  return out;
}
inline Index whole_number(std::string_view flag, std::string_view text, Index least = 1) {
  Index n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc{} || end != text.data() + text.size() || n < least || n > (Index{1} << 30))
    moxie::throw_config(flag, ": '", text, "' is no whole number from ", least, " to 2^30");
  return n;
}
inline std::vector<Index> whole_numbers(std::string_view flag, std::string_view text) {
  std::vector<Index> out;
  for (const std::string& part : split(text, ',')) out.push_back(whole_number(flag, part));
  return out;
}
}  // namespace detail

/// @throws config_error for an argument that there is not or a value that makes no sense
inline Options parse(int argc, const char* const* argv) {
  Options o;
  o.threads = static_cast<Index>(std::thread::hardware_concurrency());
  if (o.threads < 1) o.threads = 1;
  struct Flag {
    std::string_view name;
    void (*set)(Options&, std::string_view flag, std::string_view value);
  };
  static constexpr Flag flags[] = {
      {"--families", [](Options& to, std::string_view,
                        std::string_view v) { to.families = detail::split(v, ','); }},
      {"--routers", [](Options& to, std::string_view,
                       std::string_view v) { to.routers = detail::split(v, ','); }},
      {"--capacities", [](Options& to, std::string_view,
                          std::string_view v) { to.capacities = detail::split(v, ','); }},
      {"--logits", [](Options& to, std::string_view,
                      std::string_view v) { to.logits = detail::split(v, ','); }},
      {"--passes", [](Options& to, std::string_view,
                      std::string_view v) { to.passes = detail::split(v, ','); }},
      {"--experts", [](Options& to, std::string_view f,
                       std::string_view v) { to.experts = detail::whole_numbers(f, v); }},
      {"--tokens", [](Options& to, std::string_view f,
                      std::string_view v) { to.tokens = detail::whole_numbers(f, v); }},
      {"--k", [](Options& to, std::string_view f,
                 std::string_view v) { to.k = detail::whole_number(f, v); }},
      {"--group", [](Options& to, std::string_view f,
                     std::string_view v) { to.group = detail::whole_number(f, v); }},
      {"--width", [](Options& to, std::string_view f,
                     std::string_view v) { to.width = detail::whole_number(f, v); }},
      {"--hidden", [](Options& to, std::string_view f,
                      std::string_view v) { to.hidden = detail::whole_number(f, v); }},
      {"--threads", [](Options& to, std::string_view f,
                       std::string_view v) { to.threads = detail::whole_number(f, v); }},
      {"--trace", [](Options& to, std::string_view, std::string_view v) { to.trace = v; }},
      {"--trace-layer", [](Options& to, std::string_view f,
                           std::string_view v) { to.trace_layer = detail::whole_number(f, v, 0); }},
      {"--json", [](Options& to, std::string_view, std::string_view v) { to.json = v; }},
  };
  std::vector<std::string_view> known = {"--all", "--help"};
  for (const Flag& flag : flags) known.push_back(flag.name);
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      o.help = true;
    } else if (argument == "--all") {
      o.all = true;
    } else if (argument.starts_with("--benchmark_")) {
      o.for_google_benchmark.emplace_back(argument);
    } else {
      const std::size_t equals = argument.find('=');
      const std::string_view name = argument.substr(0, equals);
      const Flag* found = nullptr;
      for (const Flag& flag : flags)
        if (flag.name == name) found = &flag;
      if (found == nullptr)
        moxie::throw_config("there is no argument '", name, "'", moxie::suggestion(name, known),
                            ", see --help");
      if (equals == std::string_view::npos && i + 1 == argc)
        moxie::throw_config(name, ": its value is missing");
      found->set(o, name,
                 equals == std::string_view::npos ? argv[++i] : argument.substr(equals + 1));
    }
  }
  for (const std::string& argument : o.for_google_benchmark)
    if (!o.json.empty() && argument.starts_with("--benchmark_out"))
      moxie::throw_config("--json: stands for ", argument.substr(0, argument.find('=')),
                          ", expected one of them");
  return o;
}

}  // namespace bench
