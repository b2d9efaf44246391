#pragma once

#include <array>
#include <string_view>
#include <variant>

#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/identity_overflow.hpp"
#include "moxie/capacity/next_choice.hpp"
#include "moxie/capacity/peers.hpp"
#include "moxie/capacity/random_priority.hpp"
#include "moxie/capacity/sum_priority.hpp"
#include "moxie/capacity/train_eval.hpp"
#include "moxie/runtime/unknown_name.hpp"

/// Capacity, priority and overflow policy chosen at run time, all three of them:
///   WithOverflow{make_overflow("next_choice"),
///                WithPriority{make_priority("bpr"), make_capacity("ceil", 1.0)}}
namespace moxie {

/// A capacity rule chosen at run time. It models Capacity.
class AnyCapacity {
 public:
  using Any = std::variant<CapacityFactor, FixedCapacity, Dropless, TutelCapacity>;

  AnyCapacity() = default;
  template <class C>
  requires std::constructible_from<Any, C> AnyCapacity(C rule)
      : rule_(rule) {}  // NOLINT(google-explicit-constructor): any rule is one

  Index slots(const CapacityQuery& q) const {
    return std::visit([&q](const auto& rule) { return rule.slots(q); }, rule_);
  }
  bool dropless(Mode) const noexcept { return std::holds_alternative<Dropless>(rule_); }
  const Any& get() const noexcept { return rule_; }
  friend bool operator==(const AnyCapacity&, const AnyCapacity&) = default;

 private:
  Any rule_{};
};

/// A priority chosen at run time.
class AnyPriority {
 public:
  using Any = std::variant<TokenPriority, BatchPriority, RandomPriority, SumPriority>;

  AnyPriority() = default;
  template <class P>
  requires std::constructible_from<Any, P> AnyPriority(P priority)
      : priority_(priority) {}  // NOLINT(google-explicit-constructor): likewise

  template <Backend B>
  std::size_t bytes(const B& b, Index tokens) const {
    return std::visit([&](const auto& p) { return p.bytes(b, tokens); }, priority_);
  }
  template <Backend B>
  void order(B& b, const Context<B>& ctx, const SparseRouting<B>& r, IntVector<B> order,
             Scratch<B> scratch) const {
    std::visit([&](const auto& p) { p.order(b, ctx, r, order, scratch); }, priority_);
  }
  friend bool operator==(const AnyPriority&, const AnyPriority&) = default;

 private:
  Any priority_{};
};

/// An overflow policy chosen at run time.
class AnyOverflow {
 public:
  using Any = std::variant<Drop, NextChoice, IdentityOverflow>;

  AnyOverflow() = default;
  template <class O>
  requires std::constructible_from<Any, O> AnyOverflow(O policy)
      : policy_(policy) {}  // NOLINT(google-explicit-constructor): likewise

  bool reroutes() const {
    return std::visit([](const auto& o) { return o.reroutes(); }, policy_);
  }
  bool returns_dropped() const {
    return std::visit([](const auto& o) { return o.returns_dropped(); }, policy_);
  }
  template <Backend B>
  void reroute(B& b, const Context<B>& ctx, const FirstPass<B>& first, SparseRouting<B>& r) const {
    if (const auto* next = std::get_if<NextChoice>(&policy_)) next->reroute(b, ctx, first, r);
  }
  friend bool operator==(const AnyOverflow&, const AnyOverflow&) = default;

 private:
  Any policy_{};
};

/// The names that `make_capacity`, `make_priority` and `make_overflow` know.
inline constexpr std::array<std::string_view, 9> capacity_names = {
    "ceil", "round", "floor", "vmoe", "deepspeed", "megatron", "megablocks", "tutel", "dropless"};
inline constexpr std::array<std::string_view, 4> priority_names = {"first", "bpr", "random", "sum"};
inline constexpr std::array<std::string_view, 3> overflow_names = {"drop", "next_choice",
                                                                   "identity"};

/// A capacity rule by name: CapacityFactor by its rounding (`multiple_of` is for these three only),
/// another system's rule (capacity/peers.hpp), or `dropless`, which looks at no factor. A number of
/// slots is FixedCapacity{n}.
/// @throws config_error for a name that is none of `capacity_names`, or a `multiple_of` where the
/// rule has its own
inline AnyCapacity make_capacity(std::string_view name, double factor = 1.25,
                                 Index multiple_of = 1) {
  const auto rounded = [&](Rounding rounding) {
    return CapacityFactor{.factor = factor, .rounding = rounding, .multiple_of = multiple_of};
  };
  if (name == "ceil") return rounded(Rounding::ceil);
  if (name == "round") return rounded(Rounding::half_even);
  if (name == "floor") return rounded(Rounding::floor);
  AnyCapacity rule;
  if (name == "vmoe") {
    rule = vmoe_capacity(factor);
  } else if (name == "deepspeed") {
    rule = deepspeed_capacity(factor);
  } else if (name == "megatron") {
    rule = megatron_capacity(factor);
  } else if (name == "megablocks") {
    rule = megablocks_capacity(factor);
  } else if (name == "tutel") {
    rule = tutel_capacity(factor);
  } else if (name == "dropless") {
    rule = Dropless{};
  } else {
    throw_unknown_name("moxie::make_capacity", "capacity", name, capacity_names);
  }
  if (multiple_of != 1)
    throw_config("moxie::make_capacity: multiple_of is ", multiple_of, " for '", name,
                 "', expected 1: only ceil, round and floor take another");
  return rule;
}

/// A priority by the specification's name.   @throws config_error for a name that is none of
/// `priority_names`
inline AnyPriority make_priority(std::string_view name) {
  if (name == "first") return TokenPriority{};
  if (name == "bpr") return BatchPriority{};
  if (name == "random") return RandomPriority{};
  if (name == "sum") return SumPriority{};
  throw_unknown_name("moxie::make_priority", "priority", name, priority_names);
}

/// An overflow policy by the specification's name.   @throws config_error for a name that is none
/// of `overflow_names`
inline AnyOverflow make_overflow(std::string_view name) {
  if (name == "drop") return Drop{};
  if (name == "next_choice") return NextChoice{};
  if (name == "identity") return IdentityOverflow{};
  throw_unknown_name("moxie::make_overflow", "overflow policy", name, overflow_names);
}

}  // namespace moxie
