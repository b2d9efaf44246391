#include "stability.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"

namespace vmoe {
namespace {

class Stability final : public Command {
 public:
  Stability()
      : Command("stability", "how routes and predictions change with noise, a crop and a flip") {}

  void add(CLI::App& app) override {
    const StabilityRequest defaults;
    const auto text = [](auto value) { return moxie::detail::message(value); };
    app.add_option("checkpoints", paths_, "checkpoints, or folders of runs for their newest")
        ->type_name("PATH ...");
    add_text(app, "--data", data_, "PATH", "other test images than the first was trained beside");
    add_text(app, "--images", images_, "N", "test images, drawn by the seed; 0: all",
             text(defaults.images));
    add_text(app, "--seed", seed_, "N", "of images, directions of noise and crops",
             text(defaults.sweep.seed));
    add_text(app, "--levels", levels_, "N", "levels of noise beside none; 100 makes curves",
             text(defaults.sweep.levels));
    add_text(app, "--noise", noise_, "NUMBER",
             "standard deviation of the last level, of pixels from 0 to 1",
             text(defaults.sweep.largest));
    threads_.add(app);
    result_.add(app, "write all figures to this file");
  }

  int run() override {
    const StabilityRequest request = read();
    result_.check();
    const nlohmann::json figures = measure_stability(request);
    result_.write(figures);
    print(stability_text(figures));
    return exit_good;
  }

 private:
  StabilityRequest read() const {
    StabilityRequest request;
    request.checkpoints.assign(paths_.begin(), paths_.end());
    request.data = data_;
    apply_number("images", images_, request.images);
    apply_number("levels", levels_, request.sweep.levels);
    apply_number("noise", noise_, request.sweep.largest);
    apply_number("seed", seed_, request.sweep.seed);
    request.threads = threads_.read();
    return request;
  }

  std::vector<std::string> paths_;
  std::string data_, images_, seed_, levels_, noise_;
  ThreadsFlag threads_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> stability_command() { return std::make_unique<Stability>(); }

}  // namespace vmoe
