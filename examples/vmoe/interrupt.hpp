#pragma once

namespace vmoe {

/// From its construction on, Ctrl-C and a termination request only raise a flag, which training
/// looks at between steps; a second one ends the program at once. The former behaviour comes back
/// with its destruction.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool requested();
};

}  // namespace vmoe
