#include "report/report.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/sweep_flags.hpp"
#include "comparison.hpp"
#include "report/comparison.hpp"
#include "run_directory.hpp"

namespace vmoe {
namespace {

/// Of one run its report; of several models a page that compares them.
class Report final : public Command {
 public:
  Report() : Command("report", "write the report of a run again, or a page that compares models") {}

  void add(CLI::App& app) override {
    const ComparisonRequest defaults;
    app_ = &app;
    flags_.add(app, "the folder of a run for its report; several runs or checkpoints to compare",
               defaults.images, defaults.sweep);
    add_text(app, "--out", out_, "FILE", "the page that compares", usual_out);
  }

  int run() override {
    if (flags_.paths().empty())
      moxie::throw_config(
          "vmoe report: no path came, expected the folder of a run for its report, "
          "or several runs or checkpoints to compare");
    if (flags_.paths().size() == 1) {
      refuse_idle_flags();
      const std::filesystem::path folder = flags_.paths().front();
      write_report(folder);
      std::printf("report: %s\n", (folder / "report.html").string().c_str());
      return exit_good;
    }
    ComparisonRequest request;
    flags_.read(request);
    const std::string file = out_.empty() ? usual_out : out_;
    check_writable(file);
    const std::string page = comparison_page(compare_models(request));
    write_text(file, page);
    std::printf("comparison: %s (%.1f MB)\n", file.c_str(), static_cast<double>(page.size()) / 1e6);
    return exit_good;
  }

 private:
  /// All flags are a comparison's.
  void refuse_idle_flags() const {
    for (const CLI::Option* option : app_->get_options())
      if (option->count() > 0 && !option->get_lnames().empty())
        moxie::throw_config("vmoe report: --", option->get_lnames().front(),
                            " is for comparing models, expected two or more paths; one came, '",
                            flags_.paths().front(), "'");
  }

  static constexpr const char* usual_out = "comparison.html";
  const CLI::App* app_ = nullptr;
  SweepFlags flags_;
  std::string out_;
};

}  // namespace

std::unique_ptr<Command> report_command() { return std::make_unique<Report>(); }

}  // namespace vmoe
