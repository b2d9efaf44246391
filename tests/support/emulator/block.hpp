#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "support/emulator/async_copies.hpp"
#include "support/emulator/fiber.hpp"
#include "support/emulator/place.hpp"
#include "support/emulator/sanitizers.hpp"
#include "support/emulator/shared_memory.hpp"
#include "support/emulator/warp.hpp"

namespace moxie::emulator {

struct Extent {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;

  std::size_t size() const { return std::size_t{x} * y * z; }
  Extent index(std::size_t i) const {
    const auto n = static_cast<unsigned>(i);
    return {n % x, n / x % y, n / x / y};
  }
};

/// A CUDA thread.
struct Thread {
  enum class State : std::uint8_t { ready, waiting, done };
  /// What it waits in; of a barrier, `mask` is 0.
  struct Call {
    std::string_view name;
    unsigned mask = 0;
    Place place{};

    bool operator==(const Call&) const = default;
    std::string text() const {
      return mask != 0 ? described(name, mask, place)
                       : std::string(name).append(" at ").append(place.text());
    }
  };

  Fiber fiber;
  State state = State::ready;
  bool begun = false;
  unsigned number = 0;
  Extent index{};
  Call call{};
  AsyncCopies copies;

  unsigned lane() const { return number % 32; }
};

/// Orders that hold for a whole launch: its threads come after what the host did before, and before
/// what the host does once this is gone.
struct LaunchOrder {
  LaunchOrder() { begin.release(); }
  LaunchOrder(const LaunchOrder&) = delete;
  LaunchOrder& operator=(const LaunchOrder&) = delete;
  ~LaunchOrder() { end.acquire(); }

  Token begin;
  Token end;
  Token fence;
};

/// One block of threads, which run in turns, in an order drawn anew whenever all of them had one.
class Block {
 public:
  struct Shape {
    Extent grid{};
    Extent block{};
    std::size_t dynamic_bytes = 0;
  };

  Block(const Shape& shape, Extent index, std::uint64_t seed, Seats& seats, LaunchOrder& order)
      : shape_(shape),
        index_(index),
        random_(seed),
        order_(order),
        shared_(shape.dynamic_bytes),
        threads_(shape.block.size()),
        alive_(static_cast<unsigned>(threads_.size())) {
    seats.prepare(threads_.size());
    for (unsigned i = 0; i < alive_; ++i) {
      if (i % 32 == 0) warps_.emplace_back(alive_ - i);
      Thread& t = threads_[i];
      t.number = i;
      t.index = shape.block.index(i);
      t.fiber.start(scheduler_, seats, i, &Block::enter);
    }
  }

  /// Runs `kernel` in every thread. @throws Error and whatever the kernel throws
  void run(const std::function<void()>& kernel) {
    kernel_ = &kernel;
    running_ = this;
    std::vector<unsigned> turns(threads_.size());
    for (unsigned i = 0; i < turns.size(); ++i) turns[i] = i;
    while (alive_ > 0) {
      std::shuffle(turns.begin(), turns.end(), random_);
      if (!any_ready()) failure_ = std::make_exception_ptr(Error(deadlock()));
      // Some warps sleep through a round, so that others get ahead of them.
      const std::uint64_t awake = random_();
      for (const unsigned i : turns) {
        Thread& t = threads_[i];
        if (t.state != Thread::State::ready || (awake >> (i / 32) & 1U) == 0) continue;
        resume(t);
        if (failure_) break;
      }
      if (failure_) {
        abandon();
        running_ = nullptr;
        std::rethrow_exception(failure_);
      }
    }
    running_ = nullptr;
  }

  // ---- what a kernel calls, in one of the block's threads ----

  /// @throws Error outside a kernel
  static Block& running() {
    if (running_ == nullptr) throw Error("a function of kernels is called outside a kernel");
    return *running_;
  }
  const Shape& shape() const { return shape_; }
  Extent index() const { return index_; }
  Thread& thread() { return *now_; }
  SharedMemory& shared() { return shared_; }
  LaunchOrder& order() { return order_; }

  /// Waits for every thread that has not left. Returns how many of them said yes.
  int barrier(std::string_view name, bool yes, Place place) {
    const Quiet quiet;
    if (barrier_->arrived == 0) {
      barrier_->first = now_->number;
      barrier_->name = name;
      barrier_->place = place;
    } else if (barrier_->place != place || barrier_->name != name) {
      throw Error(std::string("divergent barrier: thread ")
                      .append(std::to_string(barrier_->first))
                      .append(" is in ")
                      .append(barrier_->name)
                      .append(" at ")
                      .append(barrier_->place.text())
                      .append(", thread ")
                      .append(std::to_string(now_->number))
                      .append(" in ")
                      .append(name)
                      .append(" at ")
                      .append(place.text()));
    }
    const std::shared_ptr<Barrier> mine = barrier_;
    ++mine->arrived;
    mine->yes += yes ? 1 : 0;
    mine->waiting.push_back(now_);
    mine->order.release();
    if (mine->arrived == alive_) {
      open_barrier();
    } else {
      wait({name, 0, place});
    }
    mine->order.acquire();
    return mine->yes;
  }

  /// Waits for the lanes of `mask`; the result holds what each brought. Only with `ordered` is
  /// memory that was written before seen after: shuffles and votes do not promise it.
  template <class V>
  std::shared_ptr<const WarpCall> meet(std::string_view name, unsigned mask, const V& value,
                                       bool ordered, Place place) {
    const Quiet quiet;
    const unsigned lane = now_->lane();
    Warp& warp = warps_[now_->number / 32];
    const std::shared_ptr<WarpCall> call = warp.enter(lane, name, mask, place);
    call->bring(lane, value);
    if (ordered) call->order.release();
    if (call->complete()) {
      warp.close(*call);
      for (unsigned l = 0; l < 32; ++l) {
        if ((mask >> l & 1U) != 0) threads_[now_->number - lane + l].state = Thread::State::ready;
      }
    } else {
      wait({name, mask, place});
    }
    if (ordered) call->order.acquire();
    return call;
  }

 private:
  struct Barrier {
    std::string_view name;
    Place place{};
    unsigned first = 0;
    unsigned arrived = 0;
    int yes = 0;
    std::vector<Thread*> waiting;
    Token order{};
  };
  /// Ends a thread of a block that failed.
  struct Abandoned {};

  /// Where every fiber begins.
  MOXIE_EMULATOR_UNSEEN static void enter() {
    Block& block = *running_;
    Thread& self = *block.now_;
    self.fiber.entered();
    block.order_.begin.acquire();
    try {
      (*block.kernel_)();
      block.leave(self);
    } catch (...) {
      const Quiet quiet;
      if (!block.failure_) block.failure_ = std::current_exception();
      self.state = Thread::State::done;
    }
    block.order_.end.release();
    self.fiber.finish();
  }
  void leave(Thread& t) {
    const Quiet quiet;
    t.state = Thread::State::done;
    --alive_;
    warps_[t.number / 32].leave(t.lane());
    if (alive_ > 0 && barrier_->arrived == alive_) open_barrier();
  }
  void wait(const Thread::Call& call) {
    Thread& t = *now_;
    t.state = Thread::State::waiting;
    t.call = call;
    t.fiber.yield();
    if (failure_) throw Abandoned();
  }
  void resume(Thread& t) {
    now_ = &t;
    t.begun = true;
    t.fiber.resume();
  }
  /// The threads of a block that failed leave their functions.
  void abandon() {
    for (Thread& t : threads_) {
      if (t.begun && t.state != Thread::State::done) resume(t);
    }
  }
  void open_barrier() {
    for (Thread* t : barrier_->waiting) t->state = Thread::State::ready;
    barrier_ = std::make_shared<Barrier>();
  }
  bool any_ready() const {
    return std::any_of(threads_.begin(), threads_.end(),
                       [](const Thread& t) { return t.state == Thread::State::ready; });
  }
  /// Who waits where, threads in the same place together.
  std::string deadlock() const {
    std::string text = "deadlock:";
    std::vector<Thread::Call> told;
    for (const Thread& t : threads_) {
      if (t.state == Thread::State::done) continue;
      if (std::find(told.begin(), told.end(), t.call) != told.end()) continue;
      const auto same = std::count_if(threads_.begin(), threads_.end(), [&](const Thread& o) {
        return o.state != Thread::State::done && o.call == t.call;
      });
      text.append(told.empty() ? " " : "; ")
          .append(std::to_string(same))
          .append(same == 1 ? " thread waits in " : " threads wait in ")
          .append(t.call.text())
          .append(" (the first is ")
          .append(std::to_string(t.number))
          .append(")");
      told.push_back(t.call);
    }
    return text;
  }

  static inline thread_local Block* running_ = nullptr;

  Shape shape_;
  Extent index_;
  std::mt19937_64 random_;
  LaunchOrder& order_;
  SharedMemory shared_;
  Scheduler scheduler_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::shared_ptr<Barrier> barrier_ = std::make_shared<Barrier>();
  const std::function<void()>* kernel_ = nullptr;
  Thread* now_ = nullptr;
  unsigned alive_;
  std::exception_ptr failure_;
};

}  // namespace moxie::emulator
