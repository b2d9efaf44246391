// conformance: runs golden vectors through the library and compares. A backend that needs the whole
// program compiled for it has one of its own, conformance_BACKEND, which this one starts.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "conformance/compare.hpp"
#if defined(MOXIE_TEST_CUDA)
#include "cuda/device_or_code.hpp"
#endif

namespace {

using namespace moxie::conformance;
namespace fs = std::filesystem;

enum Exit { exit_good = 0, exit_failed = 1, exit_usage = 2 };
enum class Outcome { passed, failed, skipped };

#if defined(MOXIE_TEST_CUDA)
constexpr const char* device = "cuda";
constexpr bool has_cpu = false;
#elif defined(MOXIE_EMULATED)
constexpr const char* device = "emulated";
constexpr bool has_cpu = false;
#else
constexpr const char* device = "thrust";
constexpr bool has_cpu = true;
#endif

/// In float, decisions between scores that are closer may fall either way.
constexpr double float_gap = 1e-6;

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The files named, and those of the folders named, in order of their names.
std::vector<fs::path> files_of(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const std::string& path : paths) {
    if (fs::is_directory(path)) {
      std::vector<fs::path> inside;
      for (const fs::directory_entry& entry : fs::directory_iterator(path))
        if (entry.path().extension() == ".json") inside.push_back(entry.path());
      if (inside.empty()) throw UsageError("the folder '" + path + "' has no *.json");
      std::sort(inside.begin(), inside.end());
      files.insert(files.end(), inside.begin(), inside.end());
    } else if (fs::exists(path)) {
      files.emplace_back(path);
    } else {
      throw UsageError("there is no file or folder '" + path + "'");
    }
  }
  return files;
}

class Program {
 public:
  Program(const std::string& backend, const std::string& scalar)
      : in_float_(scalar == "float"),
        target_(backend == "cpu" ? (in_float_ ? cpu_float : cpu_double)
                                 : (in_float_ ? device_float : device_double)) {
    for (const Kind& kind : all_kinds()) kinds_.emplace(kind.name, kind);
  }
  bool has_backend() const { return kinds_.begin()->second.run[target_] != nullptr; }

  /// Prints the line of one file.
  Outcome run(const fs::path& file) const {
    std::string name = file.stem().string();
    try {
      std::ifstream in(file);
      const Json vector = Json::parse(in);
      name = vector.at("name").get<std::string>();
      return run(name, vector);
    } catch (const std::exception& e) {
      std::printf("FAIL %s error none %s\n", name.c_str(), e.what());
      return Outcome::failed;
    }
  }

 private:
  Outcome run(const std::string& name, const Json& vector) const {
    const auto found = kinds_.find(name);
    if (found == kinds_.end()) {
      std::printf("FAIL %s kind known unknown\n", name.c_str());
      return Outcome::failed;
    }
    const Kind& kind = found->second;
    const auto tolerance = vector.at("tol_float64").get<double>();
    const Json& expected = vector.at("expected");
    Json inputs = vector.at("inputs");
    if (expected.contains("steps"))
      inputs["steps"] = expected["steps"].size();  // as many as listed
    Ranking ranking;
    const Comparison c = compare(expected, kind.run[target_](inputs, ranking),
                                 in_float_ ? kind.float_tolerance : tolerance);
    if (!c.difference) {
      std::printf("PASS %s %.3g\n", name.c_str(), c.max_error);
      return Outcome::passed;
    }
    if (in_float_) {
      Ranking exact;
      const Json got = kind.run[has_cpu ? cpu_double : device_double](inputs, exact);
      if (exact.smallest_gap() < float_gap && !compare(expected, got, tolerance).difference) {
        std::printf("SKIP %s ranks scores that are %.3g apart\n", name.c_str(),
                    exact.smallest_gap());
        return Outcome::skipped;
      }
    }
    std::printf("FAIL %s %s %s %s\n", name.c_str(), c.difference->key.c_str(),
                c.difference->expected.c_str(), c.difference->got.c_str());
    return Outcome::failed;
  }

  bool in_float_;
  Target target_;
  std::map<std::string, Kind, std::less<>> kinds_;
};

/// Becomes the program for `backend`, which lies beside this one; returns if there is none.
void become(const std::string& backend, char** argv) {
  const fs::path other =
      fs::read_symlink("/proc/self/exe").parent_path() / ("conformance_" + backend);
  execv(other.c_str(), argv);
}

}  // namespace

int main(int argc, char** argv) {
#if defined(MOXIE_TEST_CUDA)
  if (const int code = moxie::test::device_or_code(); code != 0) return code;
#endif
  CLI::App app{"Runs golden vectors through the library and compares."};
  std::string backend = "cpu";
  std::string scalar = "double";
  std::vector<std::string> paths;
  app.add_option("--backend", backend, "cpu, thrust, emulated or cuda")
      ->check(CLI::IsMember({"cpu", "thrust", "emulated", "cuda"}))
      ->capture_default_str();
  app.add_option("--scalar", scalar, "double or float")
      ->check(CLI::IsMember({"double", "float"}))
      ->capture_default_str();
  app.add_option("path", paths, "vectors, or folders of them")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? exit_good : exit_usage;
  }
  try {
    if (backend != device && !(backend == "cpu" && has_cpu)) become(backend, argv);
    const Program program(backend, scalar);
    if ((backend != device && backend != "cpu") || !program.has_backend())
      throw UsageError("this build has no backend '" + backend + "'");
    int passed = 0;
    int failed = 0;
    for (const fs::path& file : files_of(paths)) {
      const Outcome outcome = program.run(file);
      passed += outcome == Outcome::passed ? 1 : 0;
      failed += outcome == Outcome::failed ? 1 : 0;
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? exit_good : exit_failed;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "conformance: %s\n", e.what());
    return exit_usage;
  }
}
