#include "stability.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "commands/sweep_flags.hpp"

namespace vmoe {
namespace {

class Stability final : public Command {
 public:
  Stability()
      : Command("stability", "how routes and predictions change with noise, a crop and a flip") {}

  void add(CLI::App& app) override {
    const StabilityRequest defaults;
    flags_.add(app, "checkpoints, or folders of runs for their newest", defaults.images,
               defaults.sweep);
    result_.add(app, "write all figures to this file");
  }

  int run() override {
    StabilityRequest request;
    flags_.read(request);
    result_.check();
    const nlohmann::json figures = measure_stability(request);
    result_.write(figures);
    print(stability_text(figures));
    return exit_good;
  }

 private:
  SweepFlags flags_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> stability_command() { return std::make_unique<Stability>(); }

}  // namespace vmoe
