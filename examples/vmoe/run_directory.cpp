#include "run_directory.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "moxie/core/error.hpp"
#include "moxie/io/atomic_file.hpp"

namespace vmoe {
namespace fs = std::filesystem;

namespace {
constexpr std::string_view prefix = "step-";
constexpr std::string_view suffix = ".safetensors";

/// Cuts a metrics file after its last whole line.
void drop_cut_line(const fs::path& metrics) {
  std::ifstream in(metrics, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  const std::string all = std::move(text).str();
  const std::size_t end = all.rfind('\n');
  const std::size_t whole = end == std::string::npos ? 0 : end + 1;
  if (whole < all.size()) write_text(metrics, all.substr(0, whole));
}
}  // namespace

void write_text(const fs::path& path, const std::string& text) {
  moxie::AtomicFile file(path, "vmoe");
  file.write(text.data(), text.size());
  file.commit();
}

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)) {}

RunDirectory RunDirectory::create(const fs::path& path) {
  std::error_code error;
  RunDirectory run(path);
  if (fs::exists(run.config(), error))
    moxie::throw_io("vmoe: '", path.string(), "' already holds a run: continue it (vmoe train --resume ",
                    path.string(), ") or name another folder (--out DIR)");
  fs::create_directories(path / "checkpoint", error);
  if (error)
    moxie::throw_io("vmoe: cannot make the output folder '", path.string(), "': ", error.message());
  run.open_metrics();
  return run;
}

RunDirectory RunDirectory::open(const fs::path& path) {
  std::error_code error;
  RunDirectory run(path);
  if (!fs::exists(run.config(), error))
    moxie::throw_io("vmoe: '", path.string(), "' holds no run: there is no config.json in it");
  fs::create_directories(path / "checkpoint", error);
  if (error)
    moxie::throw_io("vmoe: cannot make '", (path / "checkpoint").string(), "': ", error.message());
  drop_cut_line(path / "metrics.jsonl");
  run.open_metrics();
  return run;
}

void RunDirectory::open_metrics() {
  metrics_.open(path_ / "metrics.jsonl", std::ios::app);
  if (!metrics_)
    moxie::throw_io("vmoe: cannot write '", (path_ / "metrics.jsonl").string(), "': ",
                    std::generic_category().message(errno));
}

void RunDirectory::write(const char* file, const nlohmann::json& value) const {
  write_text(path_ / file, value.dump(2) + "\n");
}

void RunDirectory::log(const nlohmann::json& line) {
  metrics_ << line.dump() + "\n" << std::flush;
  if (!metrics_)
    moxie::throw_io("vmoe: cannot write '", (path_ / "metrics.jsonl").string(), "': ",
                    std::generic_category().message(errno));
}

fs::path RunDirectory::checkpoint(std::uint64_t step) const {
  std::string digits = std::to_string(step);
  digits.insert(0, digits.size() < 8 ? 8 - digits.size() : 0, '0');
  return path_ / "checkpoint" / (std::string(prefix) + digits + std::string(suffix));
}

std::vector<std::uint64_t> RunDirectory::checkpoints() const {
  std::vector<std::uint64_t> steps;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_ / "checkpoint", error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) continue;
    const char* const first = name.data() + prefix.size();
    const char* const last = name.data() + name.size() - suffix.size();
    std::uint64_t step = 0;
    const auto [stop, bad] = std::from_chars(first, last, step);
    if (bad == std::errc{} && stop == last) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void RunDirectory::prune_checkpoints(Index keep) const {
  const std::vector<std::uint64_t> steps = checkpoints();
  const std::size_t surplus = steps.size() > to_size(keep) ? steps.size() - to_size(keep) : 0;
  std::error_code ignored;  // one that cannot be removed costs room, not the run
  for (std::size_t i = 0; i < surplus; ++i) fs::remove(checkpoint(steps[i]), ignored);
}

}  // namespace vmoe
