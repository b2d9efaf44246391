#pragma once

#include <vector>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

/// Which blocks of a transformer hold a mixture of experts: block indices from 0, ascending.
/// Source: V-MoE; consecutive_last is that of Soft MoE.
namespace moxie {

namespace detail {
/// The last `n` of first, first + step, ... below `blocks`.
inline std::vector<Index> last_of(const char* who, Index n, Index blocks, Index first, Index step) {
  const Index available = blocks > first ? (blocks - first + step - 1) / step : 0;
  if (n < 1 || n > available)
    throw_config(who, ": n is ", n, ", expected 1 to ", available, ", the blocks it can take of ",
                 blocks);
  std::vector<Index> out;
  for (Index i = available - n; i < available; ++i) out.push_back(first + i * step);
  return out;
}
}  // namespace detail

/// Blocks n - 1, 2 n - 1, 3 n - 1, ...   @throws config_error unless 1 <= n <= blocks
inline std::vector<Index> every_n(Index n, Index blocks) {
  if (n < 1 || n > blocks)
    throw_config("moxie::every_n: n is ", n, ", expected 1 to ", blocks, ", the number of blocks");
  return detail::last_of("moxie::every_n", blocks / n, blocks, n - 1, n);
}
/// The last n of blocks 1, 3, 5, ...   @throws config_error unless there are so many
inline std::vector<Index> last_n(Index n, Index blocks) {
  return detail::last_of("moxie::last_n", n, blocks, 1, 2);
}
/// The last n of blocks 0, 2, 4, ..., which are odd when counted from 1.   @throws config_error
/// likewise
inline std::vector<Index> last_odd(Index n, Index blocks) {
  return detail::last_of("moxie::last_odd", n, blocks, 0, 2);
}
/// The last n blocks.   @throws config_error likewise
inline std::vector<Index> consecutive_last(Index n, Index blocks) {
  return detail::last_of("moxie::consecutive_last", n, blocks, 0, 1);
}

}  // namespace moxie
