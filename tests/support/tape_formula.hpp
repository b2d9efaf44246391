#pragma once

#include <algorithm>
#include <cstddef>

#include "moxie/core/arena.hpp"

/// The formula of docs/performance.md ("Memory") for what a tape takes, without help of the code that
/// binds: CpuBackend<float> with its own products, softmax token choice without noise, FeedForward.
namespace moxie::test {

/// What the bytes depend on; letters as in docs/glossary.md.
struct TapeShape {
  Index tokens = 0, experts = 0, choices = 0, width = 0, hidden = 0;
  Index output = 0;    ///< 0: `width`
  Index group = 0;     ///< 0: all tokens
  Index capacity = 0;  ///< C; 0: no limit
  Index workers = 1;
};

struct TapeFormula {
  std::size_t kept = 0;     ///< of each layer, whatever gradients
  std::size_t saved = 0;    ///< of each layer, for the backward
  std::size_t scratch = 0;  ///< of one layer at a time
  std::size_t maps = 0;     ///< scratch of the router's maps, gone when the experts' is taken
  std::size_t rows = 0;     ///< the part of `saved` that is there beside `maps`

  TapeFormula(const TapeShape& s, Gradients gradients) {
    const Index t = s.group > 0 ? s.tokens / s.group * s.group : s.tokens;
    const Index groups = s.group > 0 ? t / s.group : 1;
    const Index group = s.group > 0 ? s.group : t;
    const Index c = s.capacity > 0 ? std::min(s.capacity, group) : group;
    const Index r = std::min(t * s.choices, groups * s.experts * c);
    const Index te = t * s.experts;
    const Index tk = t * s.choices;
    const Index d = s.width;
    const Index o = s.output > 0 ? s.output : d;
    const Index h = s.hidden % 256 == 0 ? s.hidden + 16 : s.hidden;

    kept = 2 * bytes(te) + 4 * bytes(tk) + 2 * bytes(r) + bytes(s.experts + 1) + 256;
    maps = bytes(t) + 2 * bytes(tk) + bytes(2 * tk) + 2 * bytes(s.experts * groups + 1) +
           bytes(2 * chunks(te));
    const std::size_t products =
        static_cast<std::size_t>(s.workers) *
        of_worker(r, std::max({d, s.hidden, o}), gradients == Gradients::all);
    if (gradients == Gradients::none) {
      scratch = bytes(r * o) + bytes(r * h) + products;
      return;
    }
    const bool all = gradients == Gradients::all;
    rows = bytes(r * o);
    saved = rows + (all ? 2 : 1) * bytes(r * h);
    const Index hidden = s.hidden;
    const std::size_t weights = all && r >= 512 * s.experts
                                    ? bytes(s.experts * (packed(d, hidden) + packed(hidden, o)))
                                    : 0;
    scratch = bytes(r) + bytes(r * d) + 2 * bytes(te) + bytes(tk) + (all ? 1 : 2) * bytes(r * h) +
              products + weights;
  }

  /// Of `n` >= 1 such layers, one after another.
  std::size_t total(std::size_t n = 1) const {
    return (n - 1) * (kept + saved) + kept + std::max(saved + scratch, rows + maps);
  }
  /// <n>: of n numbers, in whole blocks of 256 bytes.
  static std::size_t bytes(Index n) { return static_cast<std::size_t>(up(4 * n, 256)); }

 private:
  static Index up(Index n, Index multiple) { return (n + multiple - 1) / multiple * multiple; }
  /// One of each 1024, and of those again while there are more than 1024.
  static Index chunks(Index n) {
    const Index first = (n + 1023) / 1024;
    return first > 1024 ? first + chunks(first) : first;
  }
  /// Numbers of a matrix [a, b] in panels, either way round.
  static Index packed(Index a, Index b) { return std::max(a * up(b, 16), b * up(a, 16)); }
  static std::size_t of_worker(Index rows, Index widest, bool weights) {
    const Index n = std::min<Index>(512, rows);
    const Index packed = std::min<Index>(256, widest) * (up(n, 16) + 16) +
                         std::min<Index>(131072, n * up(widest, 16));
    return bytes(std::max(96 * widest, weights ? packed : 0));
  }
};

}  // namespace moxie::test
