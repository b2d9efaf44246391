#pragma once

#include <cstdint>

#include "moxie/core/host_device.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail {

/// A binary heap of ids whose root is the one to give up first: the lowest score, the highest id
/// among equals. For one thread; the memory is the caller's.
template <class F>
struct WorstFirstHeap {
  const F& score;
  std::int32_t* ids;

  MOXIE_HD MOXIE_INLINE bool worse(std::int32_t a, std::int32_t b) const {
    const auto x = score(a);
    const auto y = score(b);
    return x < y || (x == y && a > b);
  }
  MOXIE_HD MOXIE_INLINE void push(Index held, std::int32_t id) const {
    Index at = held;
    for (; at > 0 && worse(id, ids[(at - 1) / 2]); at = (at - 1) / 2) ids[at] = ids[(at - 1) / 2];
    ids[at] = id;
  }
  /// `id` takes the root's place in a heap of `held`.
  MOXIE_HD MOXIE_INLINE void replace(Index held, std::int32_t id) const {
    Index at = 0;
    for (Index child = 1; child < held; child = 2 * at + 1) {
      if (child + 1 < held && worse(ids[child + 1], ids[child])) ++child;
      if (!worse(ids[child], id)) break;
      ids[at] = ids[child];
      at = child;
    }
    ids[at] = id;
  }
};

/// ids = those of [first, last) with the `count` largest scores, descending, ties to the lower id;
/// returns how many there are. `score.admits(id)` says whether an id takes part, `score(id)` is its
/// score. Always distinct ids, also for NaN.   Cost: O(n + kept log count), no memory but `ids`.
template <class F>
MOXIE_HD MOXIE_INLINE Index largest_ids(Index first, Index last, Index count, const F& score,
                                        std::int32_t* ids) {
  const WorstFirstHeap<F> heap{score, ids};
  Index held = 0;
  if (count < 1) return held;
  for (Index i = first; i < last; ++i) {
    if (!score.admits(i)) continue;
    const auto id = static_cast<std::int32_t>(i);
    if (held < count) {
      heap.push(held++, id);
    } else if (score(id) > score(ids[0])) {  // an equal one comes later: the lower id stays
      heap.replace(held, id);
    }
  }
  for (Index n = held - 1; n > 0; --n) {
    const std::int32_t worst = ids[0];
    heap.replace(n, ids[n]);
    ids[n] = worst;
  }
  return held;
}

}  // namespace moxie::detail
