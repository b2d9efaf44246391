#pragma once

#include <stdexcept>

#include "moxie/core/executor.hpp"

namespace moxie::test {

/// Runs on the caller's thread, and throws once it has been called as often as it may be.
struct FailingExecutor final : Executor {
  static constexpr int endless = 1000000;
  int calls_left = endless;

  int workers() const noexcept override { return 1; }
  void run(Index tasks, TaskRef task) override {
    if (--calls_left < 0) throw std::runtime_error("no more");
    for (Index i = 0; i < tasks; ++i) task(i, 0);
  }
};

}  // namespace moxie::test
