#include "run_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "moxie/core/error.hpp"
#include "moxie/io/atomic_file.hpp"

namespace vmoe {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view prefix = "step-";
constexpr std::string_view suffix = ".safetensors";

[[noreturn]] void fail(const char* what, const fs::path& path, int error) {
  moxie::throw_io("vmoe: cannot ", what, " '", path.string(),
                  "': ", std::generic_category().message(error));
}

void require_run(const RunDirectory& run) {
  std::error_code error;
  if (!fs::exists(run.config(), error))
    moxie::throw_io("vmoe: '", run.path().string(),
                    "' holds no run: there is no config.json in it");
}

/// The folders that were not there, innermost first.
std::vector<fs::path> make_folders(const fs::path& path) {
  std::vector<fs::path> made;
  std::error_code error;
  for (fs::path p = path; !p.empty() && !fs::exists(p, error); p = p.parent_path())
    made.push_back(p);
  fs::create_directories(path, error);
  if (error)
    moxie::throw_io("vmoe: cannot make the output folder '", path.string(), "': ", error.message());
  return made;
}

/// Files that were being written when a process was killed: see moxie::AtomicFile.
void remove_unfinished(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().filename().string().find(".tmp.") != std::string::npos)
      fs::remove(entry.path(), ignored);
}

/// Bytes of the lines that stand before the first which is cut short or belongs to a later step.
/// Lines are in the order of their steps.
std::size_t bytes_up_to(std::uint64_t step, const std::string& text) {
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const auto line =
        nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                              text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!line.is_object()) continue;  // not ours to judge
    if (line.value("event", "") == "final") break;
    const auto found = line.find("step");
    if (found != line.end() && found->is_number_unsigned() && *found > step) break;
  }
  return begin;
}

}  // namespace

void write_text(const fs::path& path, const std::string& text) {
  moxie::AtomicFile file(path, "vmoe");
  file.write(text.data(), text.size());
  file.commit();
}

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)) { require_run(*this); }

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

void RunWriter::refuse_used(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path / "config.json", error))
    moxie::throw_io("vmoe: '", path.string(),
                    "' already holds a run: continue it (vmoe train --resume ", path.string(),
                    ") or name another folder (--out DIR)");
}

RunWriter RunWriter::create(const fs::path& path, const nlohmann::json& config) {
  refuse_used(path);
  const std::vector<fs::path> made = make_folders(path / "checkpoint");
  RunWriter run(path);
  std::error_code ignored;
  const bool had_metrics = fs::exists(run.metrics(), ignored);
  try {
    run.open_metrics();
    // Again, now that nobody else can: two may have begun at the same time.
    refuse_used(path);
    run.write("config.json", config);
  } catch (...) {
    if (run.metrics_file_ >= 0 && !had_metrics) fs::remove(run.metrics(), ignored);
    for (const fs::path& folder : made) fs::remove(folder, ignored);  // only if empty
    throw;
  }
  return run;
}

RunWriter RunWriter::resume(const fs::path& path) {
  RunWriter run(path);
  require_run(run);
  make_folders(path / "checkpoint");
  run.open_metrics();
  remove_unfinished(path);
  remove_unfinished(path / "checkpoint");
  return run;
}

RunWriter::RunWriter(RunWriter&& other) noexcept
    : RunDirectory(std::move(other)), metrics_file_(std::exchange(other.metrics_file_, -1)) {}

RunWriter::~RunWriter() {
  if (metrics_file_ >= 0) ::close(metrics_file_);
}

void RunWriter::open_metrics() {
  const int file = ::open(metrics().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0) fail("write", metrics(), errno);
  // The lock ends with the process, however that ends. Some file systems have none.
  if (::flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(file);
    moxie::throw_io("vmoe: another process is training the run in '", path().string(), "'");
  }
  metrics_file_ = file;
}

void RunWriter::write(const char* file, const nlohmann::json& value) const {
  write_text(path() / file, value.dump(2) + "\n");
}

void RunWriter::log(const nlohmann::json& line) {
  const std::string text = line.dump() + "\n";
  const ::off_t before = ::lseek(metrics_file_, 0, SEEK_END);
  for (std::size_t done = 0; done < text.size();) {
    const ::ssize_t n = ::write(metrics_file_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = n < 0 ? errno : ENOSPC;
      if (before >= 0) truncate_metrics(static_cast<std::uint64_t>(before));
      fail("write", metrics(), error);
    }
    done += static_cast<std::size_t>(n);
  }
}

void RunWriter::cut_metrics(std::uint64_t step) {
  std::ifstream in(metrics(), std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::size_t kept = bytes_up_to(step, text);
  if (kept < text.size()) truncate_metrics(kept);
}

void RunWriter::truncate_metrics(std::uint64_t bytes) {
  if (::ftruncate(metrics_file_, static_cast<::off_t>(bytes)) != 0)
    fail("shorten", metrics(), errno);
}

void RunWriter::prune_checkpoints(Index keep) const {
  const std::vector<std::uint64_t> steps = checkpoints();
  const std::size_t surplus = steps.size() > to_size(keep) ? steps.size() - to_size(keep) : 0;
  std::error_code ignored;  // one that cannot be removed costs room, not the run
  for (std::size_t i = 0; i < surplus; ++i) fs::remove(checkpoint(steps[i]), ignored);
}

}  // namespace vmoe
