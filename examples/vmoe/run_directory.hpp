#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "data/image_set.hpp"

namespace vmoe {

/// The folder of a run: config.json, metrics.jsonl, checkpoint/step-<n>.safetensors, routing.json,
/// report.html.
class RunDirectory {
 public:
  /// A run that is there, for reading only: it may be training at this moment.
  /// @throws moxie::io_error if it is no run
  explicit RunDirectory(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.json"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path checkpoint(std::uint64_t step) const;
  /// Steps of the checkpoints there are, ascending.
  std::vector<std::uint64_t> checkpoints() const;

 protected:
  struct MayBeNew {};
  RunDirectory(std::filesystem::path path, MayBeNew) : path_(std::move(path)) {}

 private:
  std::filesystem::path path_;
};

/// The folder of a run that this process trains; no other process can at the same time.
class RunWriter : public RunDirectory {
 public:
  /// @throws moxie::io_error if the folder already holds a run
  static void refuse_used(const std::filesystem::path& path);
  /// A new run; when this fails, nothing that it made stays.
  /// @throws moxie::io_error if the folder cannot be made or already holds a run
  static RunWriter create(const std::filesystem::path& path, const nlohmann::json& config);
  /// A run that is there. What a kill left half-written is taken away.
  /// @throws moxie::io_error if it is no run, cannot be written, or another process trains it
  static RunWriter resume(const std::filesystem::path& path);

  RunWriter(RunWriter&& other) noexcept;
  RunWriter(const RunWriter&) = delete;
  RunWriter& operator=(const RunWriter&) = delete;
  ~RunWriter();

  /// @throws moxie::io_error with the system's text; an older file is then untouched
  void write(const char* file, const nlohmann::json& value) const;
  /// Appends one line to metrics.jsonl; the system has it when this returns.
  /// @throws moxie::io_error with the system's text; the file is then as before
  void log(const nlohmann::json& line);
  /// Takes away the lines that a run which goes on after `step` writes again.
  void cut_metrics(std::uint64_t step);
  /// Removes all but the newest `keep`.
  void prune_checkpoints(Index keep) const;

 private:
  explicit RunWriter(std::filesystem::path path) : RunDirectory(std::move(path), MayBeNew{}) {}
  void open_metrics();
  void truncate_metrics(std::uint64_t bytes);

  int metrics_file_ = -1;
};

/// Writes text to a file in one step: temporary file, sync, rename.
/// @throws moxie::io_error with the system's text
void write_text(const std::filesystem::path& path, const std::string& text);

}  // namespace vmoe
