#include "stability.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "commands/sweep_flags.hpp"
#include "commands/threat_flags.hpp"

namespace vmoe {
namespace {

class Stability final : public Command {
 public:
  Stability()
      : Command("stability",
                "how routes and predictions change with noise, a crop, a flip and PGD") {}

  void add(CLI::App& app) override {
    const StabilityRequest defaults;
    flags_.add(app, "checkpoints, or folders of runs for their newest", defaults.images,
               defaults.sweep);
    add_text(app, "--pgd", pgd_, "EPS",
             "also under PGD in this L-infinity ball, of pixels from 0 to 1: a number or 8/255");
    add_text(app, "--pgd-steps", pgd_steps_, "N", "its steps, of a quarter of EPS",
             moxie::detail::message(defaults.pgd_steps));
    result_.add(app, "write all figures to this file");
  }

  int run() override {
    StabilityRequest request;
    flags_.read(request);
    apply_pixel_fraction("pgd", pgd_, request.pgd);
    apply_number("pgd-steps", pgd_steps_, request.pgd_steps);
    if (!pgd_steps_.empty() && request.pgd == 0)
      moxie::throw_config("vmoe: --pgd-steps has no effect without --pgd EPS");
    result_.check();
    const nlohmann::json figures = measure_stability(request);
    result_.write(figures);
    print(stability_text(figures));
    return exit_good;
  }

 private:
  SweepFlags flags_;
  std::string pgd_, pgd_steps_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> stability_command() { return std::make_unique<Stability>(); }

}  // namespace vmoe
