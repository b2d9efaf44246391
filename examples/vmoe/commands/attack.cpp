#include "attack.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "commands/threat_flags.hpp"
#include "report/attack_report.hpp"
#include "run_directory.hpp"

namespace vmoe {
namespace {

class Attack final : public Command {
 public:
  Attack() : Command("attack", "accuracy of a checkpoint, its experts and routers under attack") {}

  void add(CLI::App& app) override {
    const AttackRequest defaults;
    const auto text = [](auto value) { return moxie::detail::message(value); };
    add_text(app, "checkpoint", checkpoint_, "PATH",
             "a checkpoint, or a run's folder for its newest");
    add_text(app, "--attack", attack_, "NAME", names().c_str(), defaults.attack.name);
    threat_.add(app);
    add_text(app, "--steps", steps_, "N",
             "of pgd (50), vmoe_pgd (40), apgd and fab_t (100), or queries of square (5000); 0: "
             "that number",
             "0");
    add_text(app, "--step-size", step_, "NUMBER", "of pgd; 0: a quarter of eps", "0");
    add_text(app, "--restarts", restarts_, "N", "random starts of pgd and apgd", "1");
    add_text(app, "--definition", definition_, "NAME",
             "of RA-E and RA-R: isolated (the part that was attacked sees the perturbed image) or "
             "transfer (the whole model does)",
             "isolated");
    add_text(app, "--n", images_, "N", "test images, drawn by the seed; 0: all",
             text(defaults.images));
    add_text(app, "--seed", seed_, "N", "of images and attacks", text(defaults.seed));
    add_text(app, "--batch", batch_, "N", "images attacked together; no influence on the result",
             text(defaults.batch));
    add_text(app, "--data", data_, "PATH", "other test images than those it was trained beside");
    threads_.add(app);
    result_.add(app, "write all figures to this file");
    add_text(app, "--report", report_, "FILE",
             "write a page of points that fell: images, perturbations, routes (HTML)");
    add_text(app, "--pictures", pictures_, "N", "points in the report", text(shown));
  }

  int run() override {
    const AttackRequest request = read();
    result_.check();
    check_writable(report_);
    const AttackResult result = attack(request);
    if (result.interrupted) return exit_interrupted;
    result_.write(result.figures);
    if (!report_.empty()) write_text(report_, attack_report(result.pictures));
    print(attack_text(result.figures));
    return exit_good;
  }

 private:
  static constexpr Index shown = 12;
  static const std::string& names() {
    static const std::string list = [] {
      std::string all;
      for (const std::string& name : attack_names())
        all.append(all.empty() ? "" : ", ").append(name);
      return all;
    }();
    return list;
  }
  AttackRequest read() const {
    if (checkpoint_.empty())
      moxie::throw_config("vmoe attack: no path came, expected a checkpoint or a run's folder");
    AttackRequest r;
    r.checkpoint = checkpoint_;
    r.data = data_;
    if (!attack_.empty()) r.attack.name = attack_;
    r.attack.threat = threat_.read("vmoe attack");
    apply_number("steps", steps_, r.attack.steps);
    if (r.attack.threat.norm == moxie::Norm::linf) {
      apply_pixel_fraction("step-size", step_, r.attack.step);
    } else {
      apply_fraction("step-size", step_, r.attack.step);
    }
    apply_number("restarts", restarts_, r.attack.restarts);
    if (definition_ == "transfer") {
      r.definition = moxie::PartMode::transfer;
    } else if (!definition_.empty() && definition_ != "isolated") {
      moxie::throw_config("vmoe attack: definition is '", definition_,
                          "', expected isolated or transfer");
    }
    apply_number("n", images_, r.images);
    apply_number("seed", seed_, r.seed);
    apply_number("batch", batch_, r.batch);
    r.threads = threads_.read();
    r.pictures = shown;
    apply_number("pictures", pictures_, r.pictures);
    if (report_.empty() && r.pictures > 0) r.pictures = 0;
    check(r.attack);
    return r;
  }

  std::string checkpoint_, attack_, steps_, step_, restarts_, definition_, images_, seed_, batch_,
      data_, report_, pictures_;
  ThreatFlags threat_;
  ThreadsFlag threads_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> attack_command() { return std::make_unique<Attack>(); }

}  // namespace vmoe
