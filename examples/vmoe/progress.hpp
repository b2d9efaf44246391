#pragma once

#include <chrono>
#include <string>

namespace vmoe {

/// What a progress display shows.
struct ProgressState {
  double epoch = 0;  ///< epochs done, with fraction
  double epochs = 0;
  double loss = 0;
  double accuracy = 0;
  double images_per_second = 0;
  double dropped = 0;  ///< share of assignments without a slot
  double seconds_left = 0;
};

/// A bar that is redrawn in place on a terminal; elsewhere a plain line now and then. One line of
/// our own: the libraries there are for this are packaged for Conan or for Debian, but none for
/// both.
class Progress {
 public:
  explicit Progress(bool terminal) : terminal_(terminal) {}

  /// Shows the state; cheap to call every step. `epoch_done` ends the bar of an epoch.
  void show(const ProgressState& state, bool epoch_done);
  /// The same of any work: `part` of it is done, in [0, 1]; `done` ends the bar.
  void show(const std::string& text, double part, bool done);
  /// A line of its own, above the bar.
  void say(const std::string& line);
  /// Moves below a bar that is being drawn.
  void end_line();

 private:
  using Clock = std::chrono::steady_clock;
  /// Whether it is time to draw again; then it is noted.
  bool is_due(bool done);
  void draw(const std::string& text, double part, bool done);

  bool terminal_;
  bool drawn_ = false;
  Clock::time_point last_{};
};

/// "1:02:03" or "2:03".
std::string format_seconds(double seconds);

/// `text` beside a bar that is filled to `part`, in one row of a terminal: a bar that wraps could
/// not be redrawn in place. The bar gives way first.
std::string progress_row(const std::string& text, double part, int columns);

}  // namespace vmoe
