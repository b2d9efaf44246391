#include "moxie/backend/thread_pool.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using moxie::Index;
using moxie::ThreadPool;

TEST_CASE("ThreadPool runs every task once, on a worker it has") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.workers() == threads);
    for (const Index tasks : {0, 1, 2, 5, 1000}) {
      std::vector<int> seen(static_cast<std::size_t>(tasks), 0);
      std::atomic<bool> known{true};
      pool.run(tasks, [&](Index task, int worker) {
        ++seen[static_cast<std::size_t>(task)];
        if (worker < 0 || worker >= threads) known = false;
      });
      CHECK(seen == std::vector<int>(static_cast<std::size_t>(tasks), 1));
      CHECK(known);
    }
  }
}

TEST_CASE("ThreadPool survives many runs, of awake and of sleeping workers") {
  ThreadPool pool(4);
  Index total = 0;
  for (Index i = 0; i < 3000; ++i) {
    std::atomic<Index> sum{0};
    pool.run(i % 7, [&](Index task, int) { sum += task + 1; });
    total += sum;
    if (i % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  Index expected = 0;
  for (Index i = 0; i < 3000; ++i) expected += (i % 7) * (i % 7 + 1) / 2;
  CHECK(total == expected);
}

TEST_CASE("ThreadPool gives every worker a number of its own") {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> inside(3);
  std::atomic<bool> alone{true};
  pool.run(500, [&](Index, int worker) {
    const auto w = static_cast<std::size_t>(worker);
    if (inside[w].fetch_add(1) != 0) alone = false;
    inside[w].fetch_sub(1);
  });
  CHECK(alone);
}

TEST_CASE("ThreadPool finishes all tasks and throws the exception of the lowest") {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::atomic<int> done{0};
      std::string what;
      try {
        pool.run(50, [&](Index task, int) {
          ++done;
          if (task % 10 == 7) throw std::runtime_error(std::to_string(task));
        });
      } catch (const std::runtime_error& e) {
        what = e.what();
      }
      CHECK(what == "7");
      CHECK(done == 50);
    }
    std::atomic<int> after{0};
    pool.run(10, [&](Index, int) { ++after; });
    CHECK(after == 10);
  }
}

TEST_CASE("ThreadPool serves two threads that call it at the same time") {
  ThreadPool pool(3);
  const auto use = [&pool](Index repeats, Index tasks, bool& right) {
    for (Index i = 0; i < repeats; ++i) {
      std::atomic<Index> count{0};
      pool.run(tasks, [&](Index, int) { ++count; });
      right = right && count == tasks;
    }
  };
  bool here = true;
  bool there = true;
  std::thread other([&] { use(300, 11, there); });
  use(300, 5, here);
  other.join();
  CHECK(here);
  CHECK(there);
}

TEST_CASE("ThreadPool refuses to have no thread") {
  CHECK_THROWS_WITH_AS(ThreadPool(0), "moxie::ThreadPool: threads must be at least 1, got 0",
                       moxie::config_error);
}
