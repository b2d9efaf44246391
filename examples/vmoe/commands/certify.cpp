#include "certify.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands/all.hpp"
#include "commands/exit.hpp"
#include "commands/flags.hpp"
#include "commands/threat_flags.hpp"

namespace vmoe {
namespace {

class Certify final : public Command {
 public:
  Certify()
      : Command("certify", "radii within which no attack can succeed, where the theorems apply") {}

  void add(CLI::App& app) override {
    const CertifyRequest defaults;
    const auto text = [](auto value) { return moxie::detail::message(value); };
    add_text(app, "checkpoint", checkpoint_, "PATH",
             "a checkpoint, or a run's folder for its newest");
    radii_flag_ =
        add_text(app, "--radii", radii_, "LIST",
                 "L-infinity radii, of pixels from 0 to 1, separated by commas; fractions are read",
                 "0.5/255,1/255,2/255,4/255,8/255");
    add_text(app, "--n", images_, "N",
             "test images, drawn by the seed; 0: all; as --seed and --data for a mixture of whole "
             "networks (--model image_moe) alone, for no other model has radii",
             text(defaults.images));
    add_text(app, "--seed", seed_, "N", "of the images", text(defaults.seed));
    add_text(app, "--data", data_, "PATH", "other test images than those it was trained beside");
    result_.add(app, "write all figures to this file");
  }

  int run() override {
    if (checkpoint_.empty())
      moxie::throw_config("vmoe certify: no path came, expected a checkpoint or a run's folder");
    CertifyRequest request;
    request.checkpoint = checkpoint_;
    request.data = data_;
    apply_number("n", images_, request.images);
    apply_number("seed", seed_, request.seed);
    for (const auto& [flag, given] :
         {std::pair{"--n", &images_}, {"--seed", &seed_}, {"--data", &data_}})
      if (!given->empty()) request.about_images = flag;
    if (radii_flag_->count() > 0) request.radii = read_radii(radii_);
    result_.check();
    const nlohmann::json figures = certify(request);
    result_.write(figures);
    print(certify_text(figures));
    return exit_good;
  }

 private:
  const CLI::Option* radii_flag_ = nullptr;  // an empty list is one, too
  std::string checkpoint_, radii_, images_, seed_, data_;
  ResultFile result_;
};

}  // namespace

std::unique_ptr<Command> certify_command() { return std::make_unique<Certify>(); }

}  // namespace vmoe
