#pragma once

#include "moxie/core/view.hpp"

namespace moxie {

/// A reference to something callable as `f(task, worker)`. It owns nothing and allocates nothing: the
/// callable must outlive the call it is passed to.
class TaskRef {
 public:
  template <class F>
  TaskRef(const F& f)  // NOLINT(google-explicit-constructor): a parameter type, made at the call
      : object_(&f), call_([](const void* o, Index task, int worker) {
          (*static_cast<const F*>(o))(task, worker);
        }) {}
  void operator()(Index task, int worker) const { call_(object_, task, worker); }

 private:
  const void* object_;
  void (*call_)(const void*, Index, int);
};

/// Where a CPU backend's work runs: moxie::ThreadPool, or a pool of your own.
///
/// Tasks are independent and may run in any order on any worker: no result of the library depends on it.
class Executor {
 public:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  virtual ~Executor() = default;
  /// How many tasks run at the same time; worker numbers are below it. The same for the executor's whole life: tapes take
  /// memory for so many.
  virtual int workers() const noexcept = 0;
  /// Runs task(i, worker) once for each i in [0, tasks), and returns when all are done. An exception of a
  /// task is thrown again here. May be called by several threads at once; not from inside a task.
  virtual void run(Index tasks, TaskRef task) = 0;
};

}  // namespace moxie
