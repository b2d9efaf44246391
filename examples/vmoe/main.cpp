#include <cerrno>
#include <csignal>
#include <cstdio>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>

#include "command_line.hpp"
#include "evaluate.hpp"
#include "moxie/core/error.hpp"
#include "moxie/io/atomic_file.hpp"
#include "report/report.hpp"
#include "run_directory.hpp"
#include "stability.hpp"
#include "trainer.hpp"

namespace {

enum Exit { exit_good = 0, exit_failed = 1, exit_usage = 2, exit_interrupted = 130 };

/// Before the work, whose figures might have nowhere to go. A file that is begun and not committed
/// leaves nothing.
void check_result_file(const std::string& file) {
  if (!file.empty()) const moxie::AtomicFile probe(file, "vmoe");
}
void write_result(const std::string& file, const nlohmann::json& result) {
  if (!file.empty()) vmoe::write_text(file, result.dump(2) + "\n");
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  if (std::fflush(stdout) != 0)
    moxie::throw_io("vmoe: cannot write the figures to standard output: ",
                    std::generic_category().message(errno));
}

int run(const vmoe::CommandLine& line) {
  using Command = vmoe::CommandLine::Command;
  nlohmann::json result;
  switch (line.command) {
    case Command::help:
      std::fputs(line.text.c_str(), stdout);
      break;
    case Command::train: {
      check_result_file(line.json);
      if (vmoe::train(line.train, result) == vmoe::TrainEnd::interrupted) return exit_interrupted;
      write_result(line.json, result);
      const std::filesystem::path folder = line.train.resume.value_or(line.train.options.out);
      std::printf("report: %s\n", (folder / "report.html").string().c_str());
      break;
    }
    case Command::eval:
      check_result_file(line.json);
      check_result_file(line.routes);
      result = vmoe::evaluate(line.target, line.data, line.threads, line.routes);
      write_result(line.json, result);
      print(result.dump(2) + "\n");
      break;
    case Command::stability:
      check_result_file(line.json);
      result = vmoe::measure_stability(line.stability);
      write_result(line.json, result);
      print(vmoe::stability_text(result));
      break;
    case Command::report:
      vmoe::write_report(line.target);
      std::printf("report: %s\n", (line.target / "report.html").string().c_str());
      break;
  }
  return exit_good;
}

}  // namespace

int main(int argc, char** argv) {
  // A file that grows beyond a limit (ulimit -f) is an error like a full disk, not the end.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return run(vmoe::CommandLine::parse(argc, argv));
  } catch (const moxie::config_error& e) {
    std::fprintf(stderr, "error: %s\n(vmoe --help and vmoe train --help list what there is)\n",
                 e.what());
    return exit_usage;
  } catch (const std::bad_alloc&) {
    std::fputs("error: not enough memory for this model, batch and data\n", stderr);
    return exit_failed;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return exit_failed;
  }
}
