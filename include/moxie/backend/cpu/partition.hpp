#pragma once

#include "moxie/core/view.hpp"

/// How work is divided. Nothing here is part of a result.
namespace moxie::detail {

constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }
constexpr Index larger(Index a, Index b) { return a < b ? b : a; }
constexpr Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

/// Multiply-adds that pay for handing a task out: some microseconds.
inline constexpr Index worth_a_task = 200000;

/// Indices of a task: at least `grain`, and few enough that a worker gets up to eight tasks.
constexpr Index task_size(Index n, int workers, Index grain) {
  const Index least = larger(grain, 1);
  return workers == 1 ? larger(n, 1) : larger(least, divide_up(n, 8 * static_cast<Index>(workers)));
}

}  // namespace moxie::detail
