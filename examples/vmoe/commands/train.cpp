#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "commands/option_flags.hpp"
#include "idle_flags.hpp"
#include "router_defaults.hpp"
#include "trainer.hpp"

namespace vmoe {
namespace {

class Train final : public Command {
 public:
  Train() : Command("train", "train a model, evaluate it, write a report") {}

  void add(CLI::App& app) override {
    add_text(app, "--config", config_, "FILE", "JSON file that sets options; flags win over it");
    add_text(app, "--resume", resume_, "DIR", "go on with the run in this folder");
    result_.add(app, "write the final figures to this file");
    flags_.add(app);
  }

  int run() override {
    const TrainRequest request = read();
    result_.check();
    nlohmann::json figures;
    if (train(request, figures) == TrainEnd::interrupted) return exit_interrupted;
    result_.write(figures);
    const std::filesystem::path folder = request.resume.value_or(request.options.out);
    std::printf("report: %s\n", (folder / "report.html").string().c_str());
    return exit_good;
  }

 private:
  TrainRequest read() const {
    TrainRequest request;
    if (!config_.empty()) request.given = apply_config_file(config_, request.options);
    OptionNames typed;
    flags_.apply(request.options, typed);
    request.given.insert(typed.begin(), typed.end());
    take_router_defaults(request.options, request.given);
    if (resume_.empty()) refuse_idle_flags(request.options, typed);
    if (typed.contains("tf32") && program_backend() == std::string_view("cpu"))
      moxie::throw_config("vmoe: --tf32 has no effect without --backend cuda");
    if (!request.given.contains("warmup_epochs"))
      request.options.warmup_epochs =
          std::min(request.options.warmup_epochs, request.options.epochs);
    if (!resume_.empty()) request.resume = resume_;
    return request;
  }

  std::string config_, resume_;
  OptionFlags flags_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> train_command() { return std::make_unique<Train>(); }

}  // namespace vmoe
