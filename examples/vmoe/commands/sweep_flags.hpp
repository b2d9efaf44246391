#pragma once

#include <string>
#include <vector>

#include "commands/flags.hpp"
#include "moxie/robust/noise_sweep.hpp"

namespace vmoe {

/// The flags of commands that look at trained models and test images along a sweep of noise: of
/// requests with `checkpoints`, `data`, `images`, `sweep` and `threads`.
class SweepFlags {
 public:
  /// @param images, sweep  the defaults, as the help shows them
  /// @param paths  what the positional arguments are
  void add(CLI::App& app, const char* paths, Index images, const moxie::NoiseSweep& sweep);

  /// What was given takes the place of the defaults.
  /// @throws moxie::config_error naming flag and text
  template <class Request>
  void read(Request& request) const {
    request.checkpoints.assign(paths_.begin(), paths_.end());
    request.data = data_;
    apply_number("images", images_, request.images);
    apply_number("levels", levels_, request.sweep.levels);
    apply_number("noise", noise_, request.sweep.largest);
    apply_number("seed", seed_, request.sweep.seed);
    request.threads = threads_.read();
  }

  const std::vector<std::string>& paths() const { return paths_; }

 private:
  std::vector<std::string> paths_;
  std::string data_, images_, seed_, levels_, noise_;
  ThreadsFlag threads_;
};

}  // namespace vmoe
