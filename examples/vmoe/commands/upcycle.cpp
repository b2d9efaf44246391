#include "upcycle.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "commands/option_flags.hpp"
#include "json_text.hpp"

namespace vmoe {
namespace {

class Upcycle final : public Command {
 public:
  Upcycle() : Command("upcycle", "make a run with experts of a dense one, for train --resume") {}

  void add(CLI::App& app) override {
    add_text(app, "checkpoint", dense_, "PATH",
             "a dense checkpoint, or a run's folder for its newest");
    add_text(app, "--expert-noise", noise_, "NUMBER",
             "what makes experts differ from the start, in units of a kernel's root mean square",
             "0");
    result_.add(app, "write what became of the parameters to this file");
    flags_.add(app);
  }

  int run() override {
    UpcycleRequest request;
    if (dense_.empty())
      moxie::throw_config(
          "vmoe upcycle: no path came, expected a dense checkpoint or a run's folder");
    request.dense = dense_;
    flags_.apply(request.options, request.given);
    if (!request.given.contains("out"))
      moxie::throw_config("vmoe upcycle: no --out came, expected the folder of a new run");
    apply_number("expert-noise", noise_, request.expert_noise);
    result_.check();
    const nlohmann::json figures = upcycle_run(request);
    result_.write(figures);
    print(json_text(figures, {.indent = 2}) + "\n");
    return exit_good;
  }

 private:
  std::string dense_, noise_;
  OptionFlags flags_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> upcycle_command() { return std::make_unique<Upcycle>(); }

}  // namespace vmoe
