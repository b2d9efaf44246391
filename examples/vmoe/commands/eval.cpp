#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "evaluate.hpp"
#include "json_text.hpp"

namespace vmoe {
namespace {

class Eval final : public Command {
 public:
  Eval() : Command("eval", "evaluate a checkpoint on test images") {}

  void add(CLI::App& app) override {
    add_text(app, "checkpoint", checkpoint_, "PATH",
             "a checkpoint, or a run's folder for its newest");
    add_text(app, "--data", data_, "PATH", "other images than those it was trained beside");
    threads_.add(app);
    result_.add(app, "write the figures to this file");
    add_text(app, "--routes", routes_, "FILE",
             "write the experts and weights of every token, by image, to this file "
             "(moxie::save_routes)");
  }

  int run() override {
    if (checkpoint_.empty())
      moxie::throw_config("vmoe eval: no path came, expected a checkpoint or a run's folder");
    const Index threads = threads_.read();
    result_.check();
    check_writable(routes_);
    const nlohmann::json figures = evaluate(checkpoint_, data_, threads, routes_);
    result_.write(figures);
    print(json_text(figures, {.indent = 2}) + "\n");
    return exit_good;
  }

 private:
  std::string checkpoint_, data_, routes_;
  ThreadsFlag threads_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> eval_command() { return std::make_unique<Eval>(); }

}  // namespace vmoe
