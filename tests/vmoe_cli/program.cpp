#include "program.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>

#include "io/folder.hpp"
#include "moxie/io/safetensors.hpp"

namespace cli {
namespace fs = std::filesystem;

namespace {

/// Both ends of a new terminal: ours, and the one that programs see.
std::pair<int, int> open_terminal(int columns) {
  const int ours = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  REQUIRE(ours >= 0);
  REQUIRE(::grantpt(ours) == 0);
  REQUIRE(::unlockpt(ours) == 0);
  const int other = ::open(::ptsname(ours), O_RDWR | O_NOCTTY | O_CLOEXEC);
  REQUIRE(other >= 0);
  ::winsize size{};
  size.ws_col = static_cast<unsigned short>(columns);
  size.ws_row = 24;
  REQUIRE(::ioctl(ours, TIOCSWINSZ, &size) == 0);
  return {ours, other};
}

/// Gives up the superuser's right to pass over those of files, in the programs it runs as well.
bool become_ordinary() {
#if defined(__linux__)
  constexpr unsigned long dac_override = 1;  // CAP_DAC_OVERRIDE of linux/capability.h
  return ::geteuid() != 0 || ::prctl(PR_CAPBSET_DROP, dac_override, 0UL, 0UL, 0UL) == 0;
#else
  return ::geteuid() != 0;
#endif
}

/// In the child, between fork and exec.
[[noreturn]] void become(const std::vector<char*>& arguments, const Setting& setting,
                         const std::string& out, const std::string& err, int terminal) {
  const std::string& to = setting.output.empty() ? out : setting.output;
  const int output =
      terminal >= 0 ? terminal : ::open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int error = ::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(error, STDERR_FILENO);
  bool ready = setting.folder.empty() || ::chdir(setting.folder.c_str()) == 0;
  if (setting.largest_file > 0) {
    const auto bytes = static_cast<::rlim_t>(setting.largest_file);
    const ::rlimit limit{bytes, bytes};
    ready = ready && ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
  }
  if (setting.ordinary) ready = ready && become_ordinary();
  if (ready) ::execv(arguments.front(), arguments.data());
  ::_exit(127);
}

}  // namespace

Process::Process(const Arguments& arguments, const Setting& setting) {
  Arguments all{setting.program.string()};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& argument : all) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const std::string out = files_ / "out", err = files_ / "err";
  int other = -1;
  if (setting.terminal) std::tie(terminal_, other) = open_terminal(setting.columns);
  child_ = ::fork();
  REQUIRE(child_ >= 0);
  if (child_ == 0) become(pointers, setting, out, err, other);
  if (other >= 0) ::close(other);
}

Process::~Process() {
  if (child_ > 0) {
    signal(SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  if (terminal_ >= 0) ::close(terminal_);
}

void Process::signal(int number) const { ::kill(child_, number); }

bool Process::running() const {
  ::siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<::id_t>(child_), &info, WEXITED | WNOHANG | WNOWAIT) == 0);
  return info.si_pid == 0;
}

Ending Process::end() {
  Ending ending;
  if (terminal_ >= 0) {
    char buffer[4096];
    for (;;) {  // ends with an error when the last process lets go of the terminal
      const ::ssize_t n = ::read(terminal_, buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      ending.out.append(buffer, static_cast<std::size_t>(n));
    }
  }
  int status = 0;
  REQUIRE(::waitpid(child_, &status, 0) == child_);
  child_ = -1;
  ending.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  if (terminal_ < 0) ending.out = read_file(files_ / "out");
  ending.err = read_file(files_ / "err");
  return ending;
}

bool can_be_ordinary() {
  return moxie::test::in_child([] { return become_ordinary() ? 0 : 1; }) == 0;
}

Ending run(const Arguments& arguments, const Setting& setting) {
  return Process(arguments, setting).end();
}

Arguments operator+(Arguments arguments, const Arguments& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

fs::path write_images(const fs::path& root, int train, int test, fixtures::Index channels) {
  fixtures::Files files;
  const std::vector<std::string> names{"cat", "dog", "emu"};
  for (const auto& [split, count] : {std::pair("train", train), std::pair("test", test)})
    for (std::size_t c = 0; c < names.size(); ++c)
      for (int i = 0; i < count; ++i) {
        fixtures::Picture picture = fixtures::flat(8, 8, channels, 0);
        for (std::size_t k = 0; k < picture.pixels.size(); ++k)
          picture.pixels[k] = static_cast<std::uint8_t>(
              70 * c + (7 * k * (c + 1) + 13 * static_cast<std::size_t>(i)) % 90);
        files.emplace_back(std::string(split) + "/" + names[c] + "/" + std::to_string(i) + ".png",
                           fixtures::png(picture));
      }
  fixtures::write_directory(root, files);
  return root;
}

Arguments train(const fs::path& data, const fs::path& out) {
  return {"train",      "--data",          data.string(), "--out",
          out.string(), "--width",         "16",          "--blocks",
          "2",          "--heads",         "2",           "--hidden",
          "16",         "--moe",           "last-1",      "--patch",
          "4",          "--batch",         "8",           "--group-images",
          "4",          "--epochs",        "3",           "--crop-padding",
          "1",          "--threads",       "1",           "--log-every",
          "5",          "--experts",       "4",           "--k",
          "2",          "--warmup-epochs", "0.5"};
}

Arguments train_mixture(const fs::path& data, const fs::path& out, const std::string& objective) {
  const Arguments all{
      "train",     "--data",         data,     "--out",           out, "--model",
      "image_moe", "--image-expert", "resnet", "--resnet-widths", "4", "--experts",
      "2",         "--batch",        "16",     "--epochs",        "2", "--robust-images",
      "12",        "--robust-steps", "2",      "--crop-padding",  "0", "--report-images",
      "2",         "--objective",    objective};
  return objective == "supervised" ? all : all + Arguments{"--attack-steps", "2"};
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<nlohmann::json> metrics(const fs::path& run) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::vector<nlohmann::json> metrics(const fs::path& run, const std::string& event) {
  std::vector<nlohmann::json> lines = metrics(run);
  std::erase_if(lines, [&](const nlohmann::json& line) { return line.at("event") != event; });
  return lines;
}

std::vector<nlohmann::json> timeless(const fs::path& run) {
  std::vector<nlohmann::json> lines = metrics(run);
  for (nlohmann::json& line : lines)
    for (const char* key : {"seconds", "images_per_s", "train_seconds"}) line.erase(key);
  return lines;
}

nlohmann::json config_of(const fs::path& run) {
  return nlohmann::json::parse(read_file(run / "config.json"));
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
    names.push_back(fs::relative(entry.path(), folder).string());
  std::sort(names.begin(), names.end());
  return names;
}

std::map<std::string, std::string> tensors(const fs::path& checkpoint) {
  const auto file = moxie::Safetensors::read(checkpoint);
  std::map<std::string, std::string> out;
  for (const moxie::StoredTensor& tensor : file.tensors()) {
    const auto bytes = file.bytes(tensor);
    out[tensor.name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return out;
}

fs::path newest_checkpoint(const fs::path& run) {
  fs::path newest;
  for (const fs::directory_entry& entry : fs::directory_iterator(run / "checkpoint"))
    if (entry.path().extension() == ".safetensors" && entry.path() > newest) newest = entry.path();
  REQUIRE(!newest.empty());
  return newest;
}

}  // namespace cli
