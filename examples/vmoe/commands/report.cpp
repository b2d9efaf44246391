#include "report/report.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"

namespace vmoe {
namespace {

class Report final : public Command {
 public:
  Report() : Command("report", "write the report of a run again") {}

  void add(CLI::App& app) override { add_text(app, "run", run_, "DIR", "the run's folder"); }

  int run() override {
    if (run_.empty()) moxie::throw_config("vmoe report: no path came, expected a run's folder");
    const std::filesystem::path folder = run_;
    write_report(folder);
    std::printf("report: %s\n", (folder / "report.html").string().c_str());
    return exit_good;
  }

 private:
  std::string run_;
};

}  // namespace

std::unique_ptr<Command> report_command() { return std::make_unique<Report>(); }

}  // namespace vmoe
