#pragma once

#include "moxie/capacity/concept.hpp"
#include "moxie/core/bits.hpp"
#include "moxie/core/math.hpp"

/// A Priority orders the tokens of each group: who comes first gets a slot first. The same order is
/// used for every choice; all first choices precede all second choices.
///
/// Members:
///   std::size_t bytes(const B&, Index tokens) const;
///   void order(B&, const Context<B>&, const SparseRouting<B>&, IntVector<B> order, Scratch<B>)
///   const;
/// `order` [T] becomes a permutation that keeps groups together: order[j] is the token served j-th.
/// Law: stable, so equal priorities are served by the lower token.
/// There are TokenPriority and BatchPriority here, SumPriority and RandomPriority in files of their
/// own.
namespace moxie {

namespace detail {
template <Backend B>
struct TokenOrder {
  static constexpr bool elementwise = true;
  IntVector<B> order;

  MOXIE_HD void operator()(Index j) const { order[j] = static_cast<std::int32_t>(j); }
};

/// Keys of one pass of a sort by `K`, a functor of (token, pass) with `passes` parts of `bits`
/// bits, the lowest first.
template <Backend B, class K>
struct PassKey {
  static constexpr bool one_level = true;
  K part;
  int pass;
  ConstIntVector<B> order;
  IntVector<B> key;

  MOXIE_HD void operator()(Index j) const { key[j] = part(order[j], pass); }
};
template <Backend B>
struct GroupKey {
  static constexpr bool one_level = true;
  ConstIntVector<B> order;
  Index group;
  IntVector<B> key;

  MOXIE_HD void operator()(Index j) const { key[j] = static_cast<std::int32_t>(order[j] / group); }
};

/// The key of a score >= 0, so that ascending keys are descending scores. Non-negative numbers
/// order as their bits do. Exact: one part of 31 bits for float, three of 21 for double.
template <class T>
struct DescendingKey {
  static constexpr int passes = sizeof(T) == sizeof(float) ? 1 : 3;
  static constexpr int bits = sizeof(T) == sizeof(float) ? 31 : 21;

  MOXIE_HD static std::int32_t part(T score, int pass) {
    if constexpr (sizeof(T) == sizeof(float)) {
      const auto all = math::detail::bits<std::uint32_t>(score);
      return static_cast<std::int32_t>(0x7fffffffU - (all & 0x7fffffffU));
    } else {
      const auto all = math::detail::bits<std::uint64_t>(score);
      return static_cast<std::int32_t>(0x1fffffU - ((all >> (21 * pass)) & 0x1fffffU));
    }
  }
};
template <Backend B>
struct BestGateKey : DescendingKey<typename B::Scalar> {
  ConstMatrix<B> scores;

  MOXIE_HD explicit BestGateKey(ConstMatrix<B> s) : scores(s) {}
  MOXIE_HD std::int32_t operator()(Index t, int pass) const {
    auto best = scores(t, 0);
    for (Index e = 1; e < scores.cols; ++e) best = best < scores(t, e) ? scores(t, e) : best;
    return this->part(best, pass);
  }
};

inline std::size_t key_bytes(Index tokens) {
  return (static_cast<std::size_t>(tokens) * sizeof(std::int32_t) + 255) / 256 * 256;
}
template <Backend B>
std::size_t order_by_bytes(const B& b, Index tokens) {
  return key_bytes(tokens) + b.sort_pairs_bytes(tokens);
}
/// order: the tokens of each group by ascending keys, equal ones by the lower token.
template <Backend B, class K>
void order_by(B& b, const RoutingShape& shape, const K& part, IntVector<B> order,
              Scratch<B> scratch) {
  const Index tokens = shape.tokens;
  const IntVector<B> key{reinterpret_cast<std::int32_t*>(scratch.data), tokens};
  const auto used = static_cast<Index>(key_bytes(tokens));
  const Scratch<B> rest = scratch.middle(used, scratch.size - used);
  b.for_each(tokens, TokenOrder<B>{order});
  for (int pass = 0; pass < K::passes; ++pass) {
    b.for_each(tokens, PassKey<B, K>{part, pass, order, key});
    b.sort_pairs(key, order, K::bits, rest);
  }
  const Index groups = shape.groups();
  if (groups <= 1) return;
  b.for_each(tokens, GroupKey<B>{order, shape.group, key});
  b.sort_pairs(key, order, bits_for(groups), rest);
}

/// The gates a priority ranks tokens by: the plan's if the router made one.
template <Backend B>
ConstMatrix<B> ranking_gates(const SparseRouting<B>& r) {
  return r.plan ? r.plan : r.noisy_probs;
}
}  // namespace detail

/// The lower token first, spelled out: what a capacity without a priority does. For choices at run
/// time.
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

/// Batch prioritized routing: tokens with a larger best gate come first; of a router with a plan, a
/// larger best entry of the plan. Source: Riquelme et al., "Scaling Vision with Sparse Mixture of
/// Experts", NeurIPS 2021, section 4.
struct BatchPriority {
  template <Backend B>
  std::size_t bytes(const B& b, Index tokens) const {
    return detail::order_by_bytes(b, tokens);
  }
  template <Backend B>
  void order(B& b, const Context<B>&, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    detail::order_by(b, r.shape, detail::BestGateKey<B>(detail::ranking_gates(r)), order, scratch);
  }
  friend constexpr bool operator==(const BatchPriority&, const BatchPriority&) = default;
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
