#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vmoe_data/fixtures.hpp"

/// Runs the program vmoe as its users do.
namespace cli {

using Arguments = std::vector<std::string>;

/// How a process ended, and what it said.
struct Ending {
  int code = 0;  ///< exit code, or 1000 + the signal that killed it
  std::string out;
  std::string err;
};

struct Setting {
  std::filesystem::path folder{};  ///< where it runs; empty: here
  bool terminal = false;           ///< standard output is one, of `columns`
  int columns = 160;
  long long largest_file = 0;  ///< bytes (RLIMIT_FSIZE); 0: no limit
  bool ordinary = false;       ///< a superuser gives up writing where the rights forbid it
  std::string output{};        ///< file of standard output; empty: the Ending's `out`
  std::filesystem::path program = MOXIE_TEST_BIN_DIR "/vmoe";
};

/// Whether Setting::ordinary can be had.
bool can_be_ordinary();

/// A running process; killed if it is still there at the end.
class Process {
 public:
  explicit Process(const Arguments& arguments, const Setting& setting = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const;
  bool running() const;
  /// Waits for the end.
  Ending end();

 private:
  ::pid_t child_ = -1;
  fixtures::TemporaryFolder files_;
  int terminal_ = -1;
};

Ending run(const Arguments& arguments, const Setting& setting = {});

/// `more` after `arguments`.
Arguments operator+(Arguments arguments, const Arguments& more);

/// Three classes of 8x8 PNG images that a model can learn: `train` and `test` of each class.
std::filesystem::path write_images(const std::filesystem::path& root, int train = 16, int test = 5,
                                   fixtures::Index channels = 3);

/// `train` with a model of a few thousand parameters.
Arguments train(const std::filesystem::path& data, const std::filesystem::path& out);

/// `train` with a mixture of two small residual networks (--model image_moe), and a short attack.
Arguments train_mixture(const std::filesystem::path& data, const std::filesystem::path& out,
                        const std::string& objective);

std::string read_file(const std::filesystem::path& path);
std::vector<nlohmann::json> metrics(const std::filesystem::path& run);
/// Those of one event.
std::vector<nlohmann::json> metrics(const std::filesystem::path& run, const std::string& event);
/// All, but for times.
std::vector<nlohmann::json> timeless(const std::filesystem::path& run);
/// What a run was made with.
nlohmann::json config_of(const std::filesystem::path& run);
/// Names in a folder and below, sorted.
std::vector<std::string> files_in(const std::filesystem::path& folder);

/// Bytes of every tensor of a checkpoint: values, moments, steps.
std::map<std::string, std::string> tensors(const std::filesystem::path& checkpoint);
std::filesystem::path newest_checkpoint(const std::filesystem::path& run);

}  // namespace cli
