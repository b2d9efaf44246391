#pragma once

#include <chrono>

namespace vmoe {

/// Counts the seconds of training: those of evaluations and of writing files are left out.
class Stopwatch {
 public:
  /// While it exists, no time passes.
  class Pause {
   public:
    explicit Pause(Stopwatch& watch) : watch_(watch), began_(Clock::now()) {}
    ~Pause() { watch_.start_ += Clock::now() - began_; }
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Stopwatch& watch_;
    std::chrono::steady_clock::time_point began_;
  };

  /// `before`: seconds of earlier processes.
  explicit Stopwatch(double before = 0) : before_(before) {}
  /// Not during a pause.
  double seconds() const {
    return before_ + std::chrono::duration<double>(Clock::now() - start_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  double before_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace vmoe
