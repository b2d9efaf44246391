#include "dual.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "commands/threat_flags.hpp"

namespace vmoe {
namespace {

class DualCommand final : public Command {
 public:
  DualCommand()
      : Command("dual", "a standard and a robust model as one: accuracy by their mixing weight") {}

  void add(CLI::App& app) override {
    const DualRequest defaults;
    const auto text = [](auto value) { return moxie::detail::message(value); };
    app.add_option("checkpoints", paths_,
                   "a standard and a robust model (--model image_moe), or one of --objective "
                   "jtdmoe; checkpoints, or folders of runs for their newest")
        ->type_name("PATH [PATH]");
    alphas_flag_ =
        add_text(app, "--alphas", alphas_, "LIST",
                 "weights of the robust model, separated by commas", "0.5,0.6,0.7,0.8,0.9,1");
    add_text(app, "--space", space_, "NAME",
             "what it mixes: logit, log_probability; probability is another name for the latter",
             "a dual model's own, else logit");
    add_text(app, "--eps", eps_, "NUMBER", "largest change of a pixel in [0, 1]", "8/255");
    add_text(app, "--step-size", step_, "NUMBER", "of PGD", "2/255");
    add_text(app, "--steps", steps_, "N", "of PGD", text(defaults.attack.steps));
    radii_flag_ = add_text(
        app, "--radii", radii_, "LIST",
        "L-infinity radii, of pixels from 0 to 1, to certify at each alpha, separated by commas; "
        "fractions are read",
        "none");
    add_text(app, "--n", images_, "N", "test images, drawn by the seed; 0: all",
             text(defaults.images));
    add_text(app, "--seed", seed_, "N", "of images and attacks", text(defaults.seed));
    add_text(app, "--data", data_, "PATH", "other test images than the first was trained beside");
    add_text(app, "--csv", csv_, "FILE", "write alpha, images, SA and RA to this file");
    add_text(app, "--out", out_, "FILE", "write the dual model of two models to this checkpoint");
    add_text(app, "--alpha", alpha_, "NUMBER", "of that checkpoint", text(defaults.alpha));
    threads_.add(app);
    result_.add(app, "write all figures to this file");
  }

  int run() override {
    const DualRequest request = read();
    result_.check();
    check_writable(request.csv);
    check_writable(request.checkpoint);
    const nlohmann::json figures = sweep_dual(request);
    result_.write(figures);
    print(dual_text(figures));
    return exit_good;
  }

 private:
  DualRequest read() const {
    if (paths_.empty() || paths_.size() > 2)
      moxie::throw_config("vmoe dual: ", paths_.size(),
                          " paths came, expected a standard and a robust model, or a dual one");
    if (paths_.size() == 1 && !out_.empty())
      moxie::throw_config("vmoe dual: --out is '", out_, "', but '", paths_[0],
                          "' is all that came, and is a checkpoint already; expected two models");
    if (!alpha_.empty() && out_.empty())
      moxie::throw_config("vmoe dual: --alpha is ", alpha_,
                          ", the weight in the checkpoint of --out FILE, expected both or none");
    DualRequest r;
    r.standard = paths_[0];
    if (paths_.size() > 1) r.robust = paths_[1];
    r.data = data_;
    if (alphas_flag_->count() > 0) r.alphas = read_alphas();
    if (radii_flag_->count() > 0) r.radii = read_radii(radii_);
    r.space = space_;
    apply_pixel_fraction("eps", eps_, r.attack.threat.eps);
    apply_pixel_fraction("step-size", step_, r.attack.step);
    apply_number("steps", steps_, r.attack.steps);
    apply_number("n", images_, r.images);
    apply_number("seed", seed_, r.seed);
    apply_number("alpha", alpha_, r.alpha);
    r.threads = threads_.read();
    r.csv = csv_;
    r.checkpoint = out_;
    return r;
  }
  std::vector<double> read_alphas() const {
    std::vector<double> all;
    for (std::size_t begin = 0; begin <= alphas_.size();) {
      const std::size_t end = std::min(alphas_.find(',', begin), alphas_.size());
      apply_number("alphas", alphas_.substr(begin, end - begin), all.emplace_back(-1));
      if (!(all.back() >= 0 && all.back() <= 1))
        moxie::throw_config("vmoe: --alphas is '", alphas_,
                            "', expected numbers from 0 to 1 with commas between them");
      begin = end + 1;
    }
    return all;
  }

  // An empty list is one, too.
  const CLI::Option *alphas_flag_ = nullptr, *radii_flag_ = nullptr;
  std::vector<std::string> paths_;
  std::string alphas_, radii_, space_, eps_, step_, steps_, images_, seed_, data_, csv_, out_;
  std::string alpha_;
  ThreadsFlag threads_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> dual_command() { return std::make_unique<DualCommand>(); }

}  // namespace vmoe
