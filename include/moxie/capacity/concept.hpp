#pragma once

#include <concepts>

#include "moxie/routing/tensors.hpp"

/// A Capacity says how many slots each expert has in one group.
///
/// Members:
///   Index slots(const CapacityQuery&) const;     the exact value of the rule, never clamped
/// Optional:
///   void order(B&, const Context<B>&, const SparseRouting<B>&, IntVector<B> order, Scratch<B>) const;
///   std::size_t order_bytes(const B&, Index tokens) const;
///       the priority: who gets the slots first (see priority.hpp); without them, the lower token
///   bool reroutes() const;
///   void reroute(B&, const Context<B>&, const FirstPass<B>&, SparseRouting<B>&) const;
///       gives choices that found no slot another expert: may change r.choice and r.slot, before
///       rows are made. Called by assign_slots if reroutes(), which then tells its caller to weigh again
///   bool returns_dropped() const;
///       the layer adds weight * x of a dropped choice to the token's own row of y (identity_overflow.hpp)
///   bool dropless(Mode) const;
///       there is no limit: experts that fill all their slots would each take every token
/// The three before it are an overflow policy, which WithOverflow adds (overflow.hpp); without them, drops.
///
/// Laws: a result below 1 is a config_error of the layer; no expert holds more in a group; masked
/// tokens take none; rerouting leaves the experts of a token distinct, and the choices that were
/// kept where they were served.
namespace moxie {

struct CapacityQuery {
  Index tokens = 0;   ///< S: tokens of a group
  Index choices = 1;  ///< K for token choice, 1 for expert choice and soft
  Index experts = 1;
  Mode mode = Mode::train;
};

template <class C>
concept Capacity = requires(const C& c, const CapacityQuery& q) {
  { c.slots(q) } -> std::same_as<Index>;
};

/// A capacity that also says who is served first.
template <class C, class B>
concept HasPriority = Capacity<C> &&
    requires(const C& c, B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch, Index tokens) {
  { c.order_bytes(b, tokens) } -> std::same_as<std::size_t>;
  c.order(b, ctx, r, order, scratch);
};

/// What assign_slots knows when every choice has been served once, for `reroute`. r.slot counts on
/// past `capacity` for choices that found no slot.
template <Backend B>
struct FirstPass {
  Index capacity = 0;       ///< C
  ConstIntVector<B> order;  ///< [T] order[j] is the token served j-th; empty: the lower token first
  /// [E*G] slots taken of expert e in group g, at e*G + g: counted up by `reroute`
  IntVector<B> held;
  IntVector<B> work;  ///< [T] to use freely
};

/// A capacity that can give choices without a slot another expert.
template <class C, class B>
concept HasReroute = Capacity<C> && requires(const C& c, B& b, const Context<B>& ctx,
                                             const FirstPass<B>& first, SparseRouting<B>& r) {
  { c.reroutes() } -> std::same_as<bool>;
  c.reroute(b, ctx, first, r);
};

/// Whether the dropped weight goes back to the token itself under capacity `c`.
template <Capacity C>
bool returns_dropped(const C& c) {
  if constexpr (requires { c.returns_dropped(); }) {
    return c.returns_dropped();
  } else {
    return false;
  }
}

/// Whether capacity `c` has no limit in passes of `mode`.
template <Capacity C>
constexpr bool is_dropless(const C& c, Mode mode) {
  if constexpr (requires { c.dropless(mode); }) {
    return c.dropless(mode);
  } else {
    return false;
  }
}

}  // namespace moxie
