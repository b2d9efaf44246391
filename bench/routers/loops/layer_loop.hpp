#pragma once

#include <memory>
#include <vector>

// Shared with the program, so that both sides know its type by the same name.
#pragma GCC visibility push(default)
#include "moxie/core/executor.hpp"
#pragma GCC visibility pop

// A mixture-of-experts layer as one writes it without a library: what bench_routers compares with. It computes what
// MoeLayer computes with TopKRouter{.k = K}, FeedForward<Gelu> and a capacity that serves all first choices, then all second
// ones; the benchmark checks that before it measures.

namespace bench {

/// Sizes, input and parameters; row-major. Memory belongs to the caller.
struct LoopProblem {
  moxie::Index tokens = 0;          ///< T, a multiple of group
  moxie::Index group = 0;           ///< S
  moxie::Index width = 0;           ///< D
  moxie::Index hidden = 0;          ///< H
  moxie::Index experts = 0;         ///< E
  moxie::Index choices = 0;         ///< K
  moxie::Index capacity = 0;        ///< slots of one expert in one group
  const float* x = nullptr;         ///< [T, D]
  const float* gate = nullptr;      ///< [D, E]
  const float* kernel_0 = nullptr;  ///< [E, D, H]
  const float* bias_0 = nullptr;    ///< [E, H]
  const float* kernel_1 = nullptr;  ///< [E, H, D]
  const float* bias_1 = nullptr;    ///< [E, D]
};

/// Of the parameters of the same name.
struct LoopGradients {
  std::vector<float> gate, kernel_0, bias_0, kernel_1, bias_1;
};

class [[gnu::visibility("default")]] LayerLoop {
 public:
  LayerLoop() = default;
  LayerLoop(const LayerLoop&) = delete;
  LayerLoop& operator=(const LayerLoop&) = delete;
  virtual ~LayerLoop() = default;

  virtual void forward(float* y) = 0;
  /// Of the last forward; overwrites dx and the gradients.
  virtual void backward(const float* dy, float* dx) = 0;

  LoopGradients gradients;
};

/// Token by token, choice by choice, with loops over floats. Parallel over tokens (backward: tokens, then experts).
[[gnu::visibility("default")]] std::unique_ptr<LayerLoop> make_naive_loop(
    const LoopProblem& problem, moxie::Executor& executor);
/// Expert by expert: its rows are gathered, and Eigen multiplies. Parallel over experts.
[[gnu::visibility("default")]] std::unique_ptr<LayerLoop> make_eigen_loop(
    const LoopProblem& problem, moxie::Executor& executor);

}  // namespace bench
