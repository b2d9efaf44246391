#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "data/image_set.hpp"

namespace vmoe {

/// The folder of a run: config.json, metrics.jsonl, checkpoint/step-<n>.safetensors, routing.json, report.html.
class RunDirectory {
 public:
  /// A new run.   @throws moxie::io_error if the folder cannot be made or already holds a run
  static RunDirectory create(const std::filesystem::path& path);
  /// A run that is there. A metrics line that a kill cut short is taken away.
  /// @throws moxie::io_error if it is no run
  static RunDirectory open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.json"; }

  /// @throws moxie::io_error with the system's text; an older file is then untouched
  void write(const char* file, const nlohmann::json& value) const;
  /// Appends one line to metrics.jsonl, which is on its way to the disk when this returns.
  void log(const nlohmann::json& line);

  std::filesystem::path checkpoint(std::uint64_t step) const;
  /// Steps of the checkpoints there are, ascending.
  std::vector<std::uint64_t> checkpoints() const;
  /// Removes all but the newest `keep`.
  void prune_checkpoints(Index keep) const;

 private:
  explicit RunDirectory(std::filesystem::path path);
  void open_metrics();

  std::filesystem::path path_;
  std::ofstream metrics_;
};

/// Writes text to a file in one step: temporary file, sync, rename.   @throws moxie::io_error with the system's text
void write_text(const std::filesystem::path& path, const std::string& text);

}  // namespace vmoe
