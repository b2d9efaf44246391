#pragma once

#include "moxie/capacity/concept.hpp"

/// An Overflow policy says what becomes of choices that found no slot.
///
/// Members:
///   bool reroutes() const;         they may get another expert: then `reroute`, as in capacity/concept.hpp
///   bool returns_dropped() const;  their weight goes back to the token: y[t] += weight * x[t]
/// There are Drop here, NextChoice and IdentityOverflow in files of their own.
namespace moxie {

/// Dropped choices give nothing: a token without any choice left has a zero row of y. What a
/// capacity without an overflow policy does, spelled out for choices at run time.
struct Drop {
  bool reroutes() const noexcept { return false; }
  bool returns_dropped() const noexcept { return false; }
  friend constexpr bool operator==(const Drop&, const Drop&) = default;
};

/// A capacity with an overflow policy: `WithOverflow{NextChoice{}, CapacityFactor{.factor = 1}}`.
template <class O, Capacity C>
struct WithOverflow : C {
  O overflow{};

  WithOverflow() = default;
  constexpr WithOverflow(O policy, C rule) : C(rule), overflow(policy) {}

  bool reroutes() const { return overflow.reroutes(); }
  template <Backend B>
  requires requires(const O& o, B& b, const Context<B>& ctx, const FirstPass<B>& first,
                    SparseRouting<B>& r) {
    o.reroute(b, ctx, first, r);
  }
  void reroute(B& b, const Context<B>& ctx, const FirstPass<B>& first, SparseRouting<B>& r) const {
    overflow.reroute(b, ctx, first, r);
  }
  bool returns_dropped() const { return overflow.returns_dropped(); }
  friend constexpr bool operator==(const WithOverflow&, const WithOverflow&) = default;
};
template <class O, class C>
WithOverflow(O, C) -> WithOverflow<O, C>;

}  // namespace moxie
