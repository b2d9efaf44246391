#pragma once

#include "moxie/capacity/concept.hpp"

/// A Priority orders the tokens of each group: who comes first gets a slot first. The same order is used for every
/// choice; all first choices precede all second choices.
///
/// Members:
///   std::size_t bytes(const B&, Index tokens) const;
///   void order(B&, const Context<B>&, const SparseRouting<B>&, IntVector<B> order, Scratch<B>) const;
/// `order` [T] becomes a permutation that keeps groups together: order[j] is the token served j-th.
/// Law: stable, so equal priorities are served by the lower token.
namespace moxie {

namespace detail {
inline int bits_for(Index count) {
  int bits = 1;
  while ((Index{1} << bits) < count) ++bits;
  return bits;
}

template <Backend B>
struct TokenOrder {
  static constexpr bool elementwise = true;
  IntVector<B> order;

  MOXIE_HD void operator()(Index j) const { order[j] = static_cast<std::int32_t>(j); }
};

template <Backend B>
struct GateKey {
  ConstMatrix<B> probs;
  IntVector<B> key, order;

  MOXIE_HD void operator()(Index t) const {
    auto best = probs(t, 0);
    for (Index e = 1; e < probs.cols; ++e) best = best < probs(t, e) ? probs(t, e) : best;
    // Non-negative floats order as their bits do; reversed, so that ascending keys are descending gates.
    const auto bits = __builtin_bit_cast(std::uint32_t, static_cast<float>(best) + 0.0F);
    key[t] = static_cast<std::int32_t>(0x7fffffffU - (bits & 0x7fffffffU));
    order[t] = static_cast<std::int32_t>(t);
  }
};
template <Backend B>
struct GroupKey {
  ConstIntVector<B> order;
  Index group;
  IntVector<B> key;

  MOXIE_HD void operator()(Index j) const {
    key[j] = static_cast<std::int32_t>(order[j] / group);
  }
};
}  // namespace detail

/// The lower token first, spelled out: what a capacity without a priority does. For choices at run time.
struct TokenPriority {
  template <Backend B>
  std::size_t bytes(const B&, Index) const noexcept {
    return 0;
  }
  template <Backend B>
  void order(B& b, const Context<B>&, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B>) const {
    b.for_each(r.shape.tokens, detail::TokenOrder<B>{order});
  }
  friend constexpr bool operator==(const TokenPriority&, const TokenPriority&) = default;
};

/// Batch prioritized routing: tokens with a larger best gate come first. Gates are compared in float.
/// Source: Riquelme et al., "Scaling Vision with Sparse Mixture of Experts", NeurIPS 2021, section 4.
struct BatchPriority {
  template <Backend B>
  std::size_t bytes(const B& b, Index tokens) const {
    return aligned(static_cast<std::size_t>(tokens) * sizeof(std::int32_t)) +
           b.sort_pairs_bytes(tokens);
  }
  template <Backend B>
  void order(B& b, const Context<B>&, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    const Index tokens = r.shape.tokens;
    const IntVector<B> key{reinterpret_cast<std::int32_t*>(scratch.data), tokens};
    const auto used =
        static_cast<Index>(aligned(static_cast<std::size_t>(tokens) * sizeof(std::int32_t)));
    const Scratch<B> rest = scratch.middle(used, scratch.size - used);
    b.for_each(tokens, detail::GateKey<B>{r.noisy_probs, key, order});
    b.sort_pairs(key, order, 31, rest);
    const Index groups = r.shape.groups();
    if (groups <= 1) return;
    b.for_each(tokens, detail::GroupKey<B>{order, r.shape.group, key});
    b.sort_pairs(key, order, detail::bits_for(groups), rest);
  }
  friend constexpr bool operator==(const BatchPriority&, const BatchPriority&) = default;

 private:
  static std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }
};

/// A capacity with a priority other than "lower token first".
template <class P, Capacity C>
struct WithPriority : C {
  P priority{};

  WithPriority() = default;
  constexpr WithPriority(P first, C rule) : C(rule), priority(first) {}

  template <Backend B>
  std::size_t order_bytes(const B& b, Index tokens) const {
    return priority.bytes(b, tokens);
  }
  template <Backend B>
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    priority.order(b, ctx, r, order, scratch);
  }
  friend constexpr bool operator==(const WithPriority&, const WithPriority&) = default;
};
template <class P, class C>
WithPriority(P, C) -> WithPriority<P, C>;

}  // namespace moxie
