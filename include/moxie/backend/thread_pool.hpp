#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/executor.hpp"

namespace moxie {

/// An Executor of `threads` workers: the calling thread and threads - 1 of its own.
///
/// Tasks are handed out one by one, ascending, to whoever is free. Waiting threads look for work for a few
/// ten microseconds before they sleep, so that a fork and join between two products costs about one, and
/// sleep at once where there are more workers than processors. `run` does not allocate; calls from several
/// threads run one after another; calls from inside a task would wait for themselves: forbidden.
/// @throws config_error if threads < 1.
class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int threads) {
    if (threads < 1) {
      throw_config("moxie::ThreadPool: threads must be at least 1, got ", threads);
    }
    const unsigned processors = std::thread::hardware_concurrency();
    spins_ = processors == 0 || static_cast<unsigned>(threads) <= processors ? 2000 : 0;
    threads_.reserve(static_cast<std::size_t>(threads - 1));
    MOXIE_TRY {
      for (int worker = 1; worker < threads; ++worker) {
        threads_.emplace_back([this, worker] { serve(worker); });
      }
    }
    MOXIE_CATCH(...) {  // the machine has no more threads: take down those that run
      stop();
      MOXIE_RETHROW;
    }
  }
  ~ThreadPool() override { stop(); }

  int workers() const noexcept override { return static_cast<int>(threads_.size()) + 1; }

  /// Runs all tasks even if one throws; then throws the exception of the lowest one that did.
  void run(Index tasks, TaskRef task) override {
    if (tasks <= 0) return;
    const std::lock_guard one_at_a_time(run_mutex_);
    task_ = &task;
    tasks_ = tasks;
    unfinished_.store(tasks, std::memory_order_relaxed);
    unclaimed_.store(tasks);  // publishes the three above
    if (tasks > 1 && sleepers_.load() > 0) {
      // Whoever counts itself a sleeper holds the mutex until it waits, so it cannot miss this.
      { const std::lock_guard lock(mutex_); }
      wake_.notify_all();
    }
    work(0);
    for (int spin = 0; spin < spins_ && unfinished_.load() > 0; ++spin) relax();
    if (unfinished_.load() > 0) {
      std::unique_lock lock(mutex_);
      done_.wait(lock, [this] { return unfinished_.load() == 0; });
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
  }

  /// Takes tasks while there are any. What `run` wrote may be read after a successful claim only: until
  /// the claimed task is finished, it cannot be written again.
  void work(int worker) {
    Index left = unclaimed_.load();
    while (left > 0) {
      if (!unclaimed_.compare_exchange_weak(left, left - 1)) continue;
      const Index index = tasks_ - left;
      MOXIE_TRY { (*task_)(index, worker); }
      MOXIE_CATCH(...) {
        const std::lock_guard lock(mutex_);
        if (!error_ || index < error_task_) {
          error_ = std::current_exception();
          error_task_ = index;
        }
      }
      if (unfinished_.fetch_sub(1) == 1) {
        { const std::lock_guard lock(mutex_); }
        done_.notify_one();
      }
      left = unclaimed_.load();
    }
  }

  void serve(int worker) {
    for (;;) {
      work(worker);
      for (int spin = 0; spin < spins_ && unclaimed_.load() == 0 && !stop_.load(); ++spin) relax();
      if (unclaimed_.load() > 0) continue;
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(
          1);  // before the look at `unclaimed_`: `run` does the two the other way round
      wake_.wait(lock, [this] { return unclaimed_.load() > 0 || stop_.load(); });
      sleepers_.fetch_sub(1);
      if (stop_.load()) return;
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stop_.store(true);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::mutex run_mutex_;  // one `run` at a time
  const TaskRef* task_ = nullptr;
  Index tasks_ = 0;
  int spins_ = 0;
  alignas(64) std::atomic<Index> unclaimed_{0};
  alignas(64) std::atomic<Index> unfinished_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // guards the errors, and the sleep of workers and caller
  std::condition_variable wake_, done_;
  std::exception_ptr error_;
  Index error_task_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace moxie
