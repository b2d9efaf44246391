#pragma once

#include <array>
#include <chrono>
#include <cstddef>

#include "../layer_input.hpp"
#include "moxie/dispatch/gather.hpp"
#include "moxie/expert/feed_forward.hpp"
#include "moxie/gate/linear.hpp"

namespace bench {

/// What a layer does, in the order in which it does it.
enum class Stage {
  gate,
  route,  ///< softmax, choice, weights
  maps,   ///< slots, and which row is whose
  experts,
  combine,
  forward_rest,
  combine_backward,
  experts_backward,
  dispatch_backward,
  route_backward,
  gate_backward,
  backward_rest,
};
inline constexpr std::size_t stages = 12;
inline constexpr std::array<const char*, stages> stage_names = {"gate",
                                                                "route",
                                                                "maps",
                                                                "experts",
                                                                "combine",
                                                                "forward_rest",
                                                                "combine_backward",
                                                                "experts_backward",
                                                                "dispatch_backward",
                                                                "route_backward",
                                                                "gate_backward",
                                                                "backward_rest"};

/// Seconds of the stages of one pass. The parts below tell it when they are done.
struct StageClock {
  using Clock = std::chrono::steady_clock;
  std::array<double, stages> seconds{};
  Clock::time_point last{};

  void start() { last = Clock::now(); }
  void end(Stage stage) {
    const Clock::time_point now = Clock::now();
    seconds[static_cast<std::size_t>(stage)] = std::chrono::duration<double>(now - last).count();
    last = now;
  }
  double of(Stage stage) const { return seconds[static_cast<std::size_t>(stage)]; }
};

// Parts of a layer that do what their bases do, and tell the clock. The CPU's backend is done with a call when it returns.

struct ClockedGate : moxie::LinearGate {
  StageClock* clock = nullptr;

  void forward(B& b, const moxie::Context<B>& context, const moxie::Parameters<B>& p,
               const State<B>& state, moxie::ConstMatrix<B> x, moxie::Matrix<B> logits,
               Tape<B>& tape) const {
    LinearGate::forward(b, context, p, state, x, logits, tape);
    clock->end(Stage::gate);
  }
  void backward(B& b, const moxie::Context<B>& context, const moxie::Parameters<B>& p,
                const State<B>& state, moxie::ConstMatrix<B> x, moxie::ConstMatrix<B> d_logits,
                moxie::Matrix<B> dx, bool weights, Tape<B>& tape) const {
    LinearGate::backward(b, context, p, state, x, d_logits, dx, weights, tape);
    clock->end(Stage::gate_backward);
  }
};

struct ClockedDispatcher : moxie::GatherDispatcher {
  StageClock* clock = nullptr;
  using Routing = moxie::SparseRouting<B>;

  moxie::Rows<B> dispatch(B& b, const Routing& r, moxie::ConstMatrix<B> x, Tape<B>& tape) const {
    const moxie::Rows<B> rows = GatherDispatcher::dispatch(b, r, x, tape);
    clock->end(
        Stage::
            maps);  // slots are assigned between the router and the dispatch, which copies nothing
    return rows;
  }
  void combine(B& b, const Routing& r, moxie::ConstMatrix<B> rows, moxie::Matrix<B> y,
               Tape<B>& tape) const {
    GatherDispatcher::combine(b, r, rows, y, tape);
    clock->end(Stage::combine);
  }
  moxie::Rows<B> combine_backward(B& b, const Routing& r, moxie::ConstMatrix<B> rows,
                                  moxie::ConstMatrix<B> dy, moxie::RoutingGradients<Routing>& g,
                                  Tape<B>& tape) const {
    const moxie::Rows<B> dy_rows = GatherDispatcher::combine_backward(b, r, rows, dy, g, tape);
    clock->end(Stage::combine_backward);
    return dy_rows;
  }
  void dispatch_backward(B& b, const Routing& r, moxie::ConstMatrix<B> d_rows, moxie::Matrix<B> dx,
                         moxie::RoutingGradients<Routing>& g, Tape<B>& tape) const {
    GatherDispatcher::dispatch_backward(b, r, d_rows, dx, g, tape);
    clock->end(Stage::dispatch_backward);
  }
};

struct ClockedExpert : moxie::FeedForward<moxie::Gelu> {
  StageClock* clock = nullptr;

  void forward(B& b, const moxie::Parameters<B>& p, const State<B>& state, const moxie::Rows<B>& in,
               moxie::Matrix<B> out, Tape<B>& tape, const moxie::Pass<B>& pass) const {
    FeedForward::forward(b, p, state, in, out, tape, pass);
    clock->end(Stage::experts);
  }
  void backward(B& b, const moxie::Parameters<B>& p, const State<B>& state,
                const moxie::Rows<B>& in, const moxie::Rows<B>& dy, moxie::Matrix<B> dx,
                Tape<B>& tape, moxie::Gradients gradients) const {
    FeedForward::backward(b, p, state, in, dy, dx, tape, gradients);
    clock->end(Stage::experts_backward);
  }
};

template <class R>
struct ClockedRouter : R {
  using GateType = ClockedGate;
  using DispatcherType = ClockedDispatcher;
  GateType gate{};
  DispatcherType dispatcher{};

  ClockedRouter(R router, StageClock& clock) : R(router) {
    gate.clock = &clock;
    dispatcher.clock = &clock;
  }
  void route(B& b, const moxie::Context<B>& context, moxie::SparseRouting<B>& r) const {
    R::route(b, context, r);
    gate.clock->end(Stage::route);
  }
  void route_backward(B& b, const moxie::Context<B>& context, const moxie::SparseRouting<B>& r,
                      moxie::RoutingGradients<moxie::SparseRouting<B>>& g) const {
    R::route_backward(b, context, r, g);
    gate.clock->end(Stage::route_backward);
  }
};

}  // namespace bench
