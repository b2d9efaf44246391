#pragma once

#include <benchmark/benchmark.h>

#include <array>
#include <fstream>
#include <string>
#include <string_view>

#include "moxie/version.hpp"
#include "source_state.hpp"

// What a result has to say of itself, beside what Google Benchmark says. (Its `library_build_type` is that of the harness,
// which Debian compiles with assertions; how the measured code was compiled is `build`.)

namespace bench {

#if defined(__clang__)
inline constexpr std::string_view compiler = "Clang " __clang_version__;
#elif defined(__GNUC__)
inline constexpr std::string_view compiler = "GCC " __VERSION__;
#else
inline constexpr std::string_view compiler = "unknown";
#endif

#if defined(NDEBUG) && defined(__OPTIMIZE__)
inline constexpr std::string_view build = "optimized, without assertions";
#elif defined(__OPTIMIZE__)
inline constexpr std::string_view build = "optimized, with assertions";
#else
inline constexpr std::string_view build = "not optimized";
#endif

/// The processor's name as Linux tells it; "unknown" elsewhere.
inline std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

/// The command line without the folders of the program and of files.
inline std::string command_of(int argc, char** argv) {
  constexpr std::array<std::string_view, 3> files = {"--json", "--trace", "--benchmark_out"};
  const auto name_of_file = [](std::string_view path) {
    return std::string(path.substr(path.rfind('/') + 1));  // npos + 1 is 0
  };
  std::string command = name_of_file(argv[0]);
  bool file_follows = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const std::size_t equals = argument.find('=');
    bool takes_file = false;
    for (const std::string_view flag : files) takes_file |= argument.substr(0, equals) == flag;
    command += ' ';
    if (file_follows) {
      command += name_of_file(argument);
    } else if (takes_file && equals != std::string_view::npos) {
      command += argument.substr(0, equals + 1);
      command += name_of_file(argument.substr(equals + 1));
    } else {
      command += argument;
    }
    file_follows = !file_follows && takes_file && equals == std::string_view::npos;
  }
  return command;
}

/// seed: which numbers the program draws from.
inline void add_context(const std::string& command, const std::string& seed) {
  benchmark::AddCustomContext("moxie", std::string(moxie::version));
  benchmark::AddCustomContext("commit", source_commit);
  benchmark::AddCustomContext("uncommitted_changes", source_changed);
  benchmark::AddCustomContext("compiler", std::string(compiler));
  benchmark::AddCustomContext("build", std::string(build));
  benchmark::AddCustomContext("cpu", cpu_model());
  benchmark::AddCustomContext("seed", seed);
  benchmark::AddCustomContext("command", command);
}

}  // namespace bench
