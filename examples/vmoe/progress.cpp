#include "progress.hpp"

#include <cmath>
#include <cstdio>

namespace vmoe {

std::string format_seconds(double seconds) {
  const auto all = static_cast<long>(std::lround(std::max(0.0, seconds)));
  char text[32];
  if (all >= 3600) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", all / 3600, all / 60 % 60, all % 60);
  } else {
    std::snprintf(text, sizeof text, "%ld:%02ld", all / 60, all % 60);
  }
  return text;
}

void Progress::show(const ProgressState& s, bool epoch_done) {
  using std::chrono::duration;
  const Clock::time_point now = Clock::now();
  const double since = duration<double>(now - last_).count();
  if (!epoch_done && since < (terminal_ ? 0.1 : 15.0)) return;
  last_ = now;
  char text[200];
  std::snprintf(text, sizeof text,
                "epoch %6.2f/%g  loss %.4f  accuracy %5.1f%%  %6.0f images/s  dropped %4.1f%%  %s left",
                s.epoch, s.epochs, s.loss, 100 * s.accuracy, s.images_per_second, 100 * s.dropped,
                format_seconds(s.seconds_left).c_str());
  if (!terminal_) {
    std::printf("%s\n", text);
    std::fflush(stdout);
    return;
  }
  constexpr int width = 24;
  double part = s.epoch - std::floor(s.epoch);
  if (epoch_done) part = 1;
  const int filled = static_cast<int>(part * width);
  std::string bar(static_cast<std::size_t>(width), '.');
  for (int i = 0; i < filled; ++i) bar[static_cast<std::size_t>(i)] = '#';
  std::printf("\r[%s] %s\033[K", bar.c_str(), text);
  drawn_ = true;
  if (epoch_done) end_line();
  std::fflush(stdout);
}

void Progress::end_line() {
  if (drawn_) std::printf("\n");
  drawn_ = false;
}

void Progress::say(const std::string& line) {
  if (terminal_ && drawn_) std::printf("\r\033[K");
  drawn_ = false;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace vmoe
