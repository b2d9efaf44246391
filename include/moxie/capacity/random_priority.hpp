#pragma once

#include "moxie/capacity/priority.hpp"

namespace moxie {

namespace detail {
/// 62 random bits a token: two tokens of a batch of 4096 draw the same ones in one of 5e11 steps.
struct RandomKey {
  static constexpr int passes = 2;
  static constexpr int bits = 31;
  Random random;
  Index first_token;  // of the whole batch, however it is split over passes

  MOXIE_HD std::int32_t operator()(Index t, int pass) const {
    const Philox::Block block = random.block(static_cast<std::uint64_t>(first_token + t), 0);
    return static_cast<std::int32_t>(block.v[pass] >> 1U);
  }
};
}  // namespace detail

/// A fresh uniform permutation of each group's tokens for every step, of (seed, step, layer):
/// order[j] is the token served j-th. Counted by global token, so a batch that is split into passes
/// of whole groups is served alike. Evaluation draws too, and always the same for the same seed and
/// step.
struct RandomPriority {
  template <Backend B>
  std::size_t bytes(const B& b, Index tokens) const {
    return detail::order_by_bytes(b, tokens);
  }
  template <Backend B>
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    detail::order_by(b, r.shape, detail::RandomKey{ctx.random("priority"), ctx.first_token}, order,
                     scratch);
  }
  friend constexpr bool operator==(const RandomPriority&, const RandomPriority&) = default;
};

}  // namespace moxie
