#include "commands/sweep_flags.hpp"

#include <CLI/CLI.hpp>

namespace vmoe {

void SweepFlags::add(CLI::App& app, const char* paths, Index images,
                     const moxie::NoiseSweep& sweep) {
  const auto text = [](auto value) { return moxie::detail::message(value); };
  app.add_option("checkpoints", paths_, paths)->type_name("PATH ...");
  add_text(app, "--data", data_, "PATH", "other test images than the first was trained beside");
  add_text(app, "--images", images_, "N", "test images, drawn by the seed; 0: all", text(images));
  add_text(app, "--seed", seed_, "N", "of images, directions of noise and crops", text(sweep.seed));
  add_text(app, "--levels", levels_, "N", "levels of noise beside none; 100 makes curves",
           text(sweep.levels));
  add_text(app, "--noise", noise_, "NUMBER",
           "standard deviation of the last level, of pixels from 0 to 1", text(sweep.largest));
  threads_.add(app);
}

}  // namespace vmoe
