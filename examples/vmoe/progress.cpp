#include "progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace vmoe {
namespace {

int terminal_columns() {
  ::winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

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

std::string progress_row(const std::string& text, double part, int columns) {
  constexpr int widest = 24, narrowest = 8;
  const int room = columns - 1;  // some terminals wrap when the last column is written
  const int width = std::min(widest, room - static_cast<int>(text.size()) - 3);
  if (width < narrowest) return text.substr(0, static_cast<std::size_t>(std::max(room, 0)));
  const int filled = static_cast<int>(part * width);
  std::string bar(static_cast<std::size_t>(width), '.');
  std::fill_n(bar.begin(), filled, '#');
  return "[" + bar + "] " + text;
}

bool Progress::is_due(bool done) {
  const Clock::time_point now = Clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  if (!done && since < (terminal_ ? 0.1 : 15.0)) return false;
  last_ = now;
  return true;
}

void Progress::draw(const std::string& text, double part, bool done) {
  if (!terminal_) {
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
    return;
  }
  std::printf("\r%s\033[K", progress_row(text, part, terminal_columns()).c_str());
  drawn_ = true;
  if (done) end_line();
  std::fflush(stdout);
}

void Progress::show(const ProgressState& s, bool epoch_done) {
  if (!is_due(epoch_done)) return;
  char text[200];
  std::snprintf(text, sizeof text,
                "epoch %.2f/%g  loss %.4f  accuracy %.1f%%  dropped %.1f%%  %.0f images/s  %s left",
                s.epoch, s.epochs, s.loss, 100 * s.accuracy, 100 * s.dropped, s.images_per_second,
                format_seconds(s.seconds_left).c_str());
  draw(text, epoch_done ? 1 : s.epoch - std::floor(s.epoch), epoch_done);
}

void Progress::show(const std::string& text, double part, bool done) {
  if (is_due(done)) draw(text, part, done);
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
