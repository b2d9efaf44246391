#pragma once

#include "moxie/core/view.hpp"

namespace moxie {

/// When APGD looks back: the first time after 22 % of its iterations, then after windows that
/// shrink by 3 % each, down to 6 %.   Source: Croce and Hein 2020, section 3.1.
class ApgdSchedule {
 public:
  explicit constexpr ApgdSchedule(Index iterations)
      : window_(share(iterations, 0.22)),
        least_(share(iterations, 0.06)),
        shrink_(share(iterations, 0.03)) {}

  /// Whether the iteration that just ended is a checkpoint.
  constexpr bool ends_window() const { return since_ + 1 == window_; }
  /// Iterations in the window that is running.
  constexpr Index window() const { return window_; }
  /// Goes on to the next iteration.
  constexpr void advance() {
    if (++since_ < window_) return;
    since_ = 0;
    window_ = window_ - shrink_ > least_ ? window_ - shrink_ : least_;
  }

 private:
  static constexpr Index share(Index iterations, double part) {
    const auto n = static_cast<Index>(part * static_cast<double>(iterations));
    return n > 1 ? n : 1;
  }
  Index window_, least_, shrink_;
  Index since_ = 0;
};

}  // namespace moxie
