#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

/// Run directories that look like real ones.
namespace fake {

using Json = nlohmann::ordered_json;

struct Run {
  int experts = 8;
  int choices = 2;
  std::vector<int> moe_blocks{1, 3};
  int train_lines = 400, eval_lines = 20, steps_per_line = 10;
  bool finished = true;
  int side = 32, channels = 3, patch = 4, images = 12;
  std::string preset = "cifar10-small";
  std::vector<std::string> classes{"airplane", "automobile", "bird",  "cat",  "deer",
                                   "dog",      "frog",       "horse", "ship", "truck"};
  std::uint32_t seed = 7;
};

Json config(const Run& run);
/// The lines of metrics.jsonl.
std::vector<Json> metrics(const Run& run);
Json routing(const Run& run);

void write(const std::filesystem::path& path, const std::string& text);
std::string read(const std::filesystem::path& path);
void write_metrics(const std::filesystem::path& dir, const std::vector<Json>& lines);
void write_run(const std::filesystem::path& dir, const Run& run);

/// A new directory of its own, removed at the end.
struct TemporaryDir {
  std::filesystem::path path;
  TemporaryDir();
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  ~TemporaryDir();
};

}  // namespace fake
