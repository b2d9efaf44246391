#include "moxie/backend/openmp_executor.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "moxie/capacity/factor.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/layer/moe_layer.hpp"
#include "moxie/regularizer/importance.hpp"
#include "moxie/router/top_k.hpp"
#include "support/errors.hpp"
#include "support/kernels.hpp"

using moxie::Index;
using moxie::OpenMpExecutor;

TEST_CASE("OpenMpExecutor runs every task once, on a worker it has") {
  for (const int threads : {1, 2, 3, 8}) {
    OpenMpExecutor executor(threads);
    CHECK(executor.workers() == threads);
    for (const Index tasks : {0, 1, 2, 5, 1000}) {
      std::vector<int> seen(static_cast<std::size_t>(tasks), 0);
      std::atomic<bool> known{true};
      executor.run(tasks, [&](Index task, int worker) {
        ++seen[static_cast<std::size_t>(task)];
        if (worker < 0 || worker >= threads) known = false;
      });
      CHECK(seen == std::vector<int>(static_cast<std::size_t>(tasks), 1));
      CHECK(known);
    }
  }
}

TEST_CASE("OpenMpExecutor gives every worker a number of its own, for two callers too") {
  OpenMpExecutor executor(3);
  std::vector<std::atomic<int>> inside(3);
  std::atomic<bool> alone{true};
  std::atomic<Index> count{0};
  const auto use = [&] {
    for (int repeat = 0; repeat < 50; ++repeat) {
      executor.run(20, [&](Index, int worker) {
        const auto w = static_cast<std::size_t>(worker);
        if (inside[w].fetch_add(1) != 0) alone = false;
        ++count;
        inside[w].fetch_sub(1);
      });
    }
  };
  std::thread other(use);
  use();
  other.join();
  CHECK(alone);
  CHECK(count == 2000);
}

TEST_CASE("OpenMpExecutor finishes all tasks and throws the exception of the lowest") {
  for (const int threads : {1, 3}) {
    OpenMpExecutor executor(threads);
    std::atomic<int> done{0};
    const std::string what = moxie::test::message_of<std::runtime_error>([&] {
      executor.run(50, [&](Index task, int) {
        ++done;
        if (task % 10 == 7) throw std::runtime_error(std::to_string(task));
      });
    });
    CHECK(what == "7");
    CHECK(done == 50);
    std::atomic<int> after{0};
    executor.run(10, [&](Index, int) { ++after; });
    CHECK(after == 10);
  }
}

TEST_CASE("OpenMpExecutor refuses to have no thread") {
  CHECK_THROWS_WITH_AS(OpenMpExecutor(0),
                       "moxie::OpenMpExecutor: threads must be at least 1, got 0",
                       moxie::config_error);
}

namespace {
/// Result, gradient of the input and gradients of the parameters of one step.
std::vector<double> step(moxie::CpuBackend<double>& cpu) {
  constexpr Index tokens = 96;
  constexpr Index width = 24;
  const moxie::MoeLayer layer{cpu,
                              {.width = width, .experts = 6, .seed = 3},
                              moxie::TopKRouter{.k = 2},
                              moxie::CapacityFactor{.factor = 1.0},
                              moxie::FeedForward<moxie::Gelu>{.hidden = 40},
                              moxie::Importance{.weight = 0.1}};
  auto tape = layer.make_tape(tokens);
  std::vector<double> x(tokens * width), y(x.size()), dy(x.size()), dx(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = std::sin(0.7 * static_cast<double>(i));
    dy[i] = std::cos(0.3 * static_cast<double>(i));
  }
  layer.forward({x.data(), tokens, width}, {y.data(), tokens, width}, tape,
                {.mode = moxie::Mode::train, .step = 1});
  layer.backward({dy.data(), tokens, width}, {dx.data(), tokens, width}, tape);
  y.insert(y.end(), dx.begin(), dx.end());
  const auto gradients = layer.parameters().gradients();
  y.insert(y.end(), gradients.data, gradients.data + gradients.size);
  return y;
}
}  // namespace

TEST_CASE("a layer on OpenMP gives the bits of one without threads, for any number of them") {
  moxie::CpuBackend<double> alone;
  const std::vector<double> expected = step(alone);
  for (const int threads : {1, 2, 3, 8}) {
    OpenMpExecutor executor(threads);
    moxie::CpuBackend<double> cpu{executor};
    CHECK(step(cpu) == expected);
  }
}
