#pragma once

#if !defined(_OPENMP)
#error \
    "moxie/backend/openmp_executor.hpp needs OpenMP: link moxie::openmp, or compile with -fopenmp"
#endif

#include <omp.h>

#include <exception>
#include <mutex>
#include <utility>

#include "moxie/core/error.hpp"
#include "moxie/core/executor.hpp"

namespace moxie {

/// An Executor on OpenMP's threads: for programs that have a team of them already, so that two pools do not
/// fight for the same processors.
///
/// `run` is one parallel loop, its tasks handed out one by one. It makes no thread of its own and keeps
/// none; calls from several threads run one after another; calls from inside a task are forbidden. Results do
/// not depend on the number of threads, nor on which executor it is.
/// @throws config_error if threads < 1.
class OpenMpExecutor final : public Executor {
 public:
  /// As many workers as OpenMP would take (OMP_NUM_THREADS, omp_set_num_threads).
  OpenMpExecutor() : OpenMpExecutor(omp_get_max_threads()) {}
  explicit OpenMpExecutor(int threads) : threads_(threads) {
    if (threads < 1) {
      throw_config("moxie::OpenMpExecutor: threads must be at least 1, got ", threads);
    }
  }

  int workers() const noexcept override { return threads_; }

  /// Runs all tasks even if one throws; then throws the exception of the lowest one that did.
  void run(Index tasks, TaskRef task) override {
    if (tasks <= 0) return;
    const std::lock_guard one_at_a_time(run_mutex_);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads_) if (tasks > 1)
    for (Index i = 0; i < tasks; ++i) {
      MOXIE_TRY {  // an exception must not leave the region
        task(i, omp_get_thread_num());
      }
      MOXIE_CATCH(...) {
        const std::lock_guard lock(error_mutex_);
        if (!error_ || i < error_task_) {
          error_ = std::current_exception();
          error_task_ = i;
        }
      }
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  int threads_;
  std::mutex run_mutex_;    // one `run` at a time: worker numbers are those of one team
  std::mutex error_mutex_;  // guards the two below
  std::exception_ptr error_;
  Index error_task_ = 0;
};

}  // namespace moxie
