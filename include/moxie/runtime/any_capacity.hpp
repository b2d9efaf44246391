#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "moxie/capacity/dropless.hpp"
#include "moxie/capacity/factor.hpp"
#include "moxie/capacity/fixed.hpp"
#include "moxie/capacity/priority.hpp"

namespace moxie {

/// A capacity rule chosen at run time. It models Capacity.
class AnyCapacity {
 public:
  using Any = std::variant<CapacityFactor, FixedCapacity, Dropless>;

  AnyCapacity() = default;
  template <class C>
    requires std::constructible_from<Any, C>
  AnyCapacity(C rule) : rule_(rule) {}  // NOLINT(google-explicit-constructor): any rule is one

  Index slots(const CapacityQuery& q) const {
    return std::visit([&q](const auto& rule) { return rule.slots(q); }, rule_);
  }
  const Any& get() const noexcept { return rule_; }
  friend bool operator==(const AnyCapacity&, const AnyCapacity&) = default;

 private:
  Any rule_{};
};

/// A priority chosen at run time.
class AnyPriority {
 public:
  using Any = std::variant<TokenPriority, BatchPriority>;

  AnyPriority() = default;
  template <class P>
    requires std::constructible_from<Any, P>
  AnyPriority(P priority) : priority_(priority) {}  // NOLINT(google-explicit-constructor): likewise

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

/// The names that `make_priority` knows.
inline constexpr std::string_view priority_names = "first, bpr";

/// A priority by the specification's name.   @throws config_error for a name that is none of `priority_names`
inline AnyPriority make_priority(std::string_view name) {
  if (name == "first") return TokenPriority{};
  if (name == "bpr") return BatchPriority{};
  throw_config("moxie::make_priority: there is no priority '", name, "', expected one of: ",
               priority_names);
}

}  // namespace moxie
