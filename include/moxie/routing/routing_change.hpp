#pragma once

#include <cstdint>
#include <span>

#include "moxie/core/error.hpp"
#include "moxie/routing/token_experts.hpp"

namespace moxie {

/// How much of a MoE layer's routing is another one: means over tokens, in [0, 1].
struct RoutingChange {
  double top1 = 0;  ///< share of tokens whose first expert differs
  double set = 0;   ///< share of tokens whose selected experts differ, in whatever order
  /// 1 - mean of |A and A'| / |A or A'|, of the experts that serve a token; where none does either
  /// time, the token counts as changed. Source: the routing change of V-MoE.
  double iou = 0;

  friend constexpr bool operator==(const RoutingChange&, const RoutingChange&) = default;
};

namespace detail {
/// Adds the change of one token.
inline void add_change(const TokenExperts& before, Index a, const TokenExperts& after, Index b,
                       RoutingChange& sum) {
  const std::span<const std::int32_t> old = before.experts(a);
  const std::span<const std::int32_t> own = after.experts(b);
  const std::int32_t none = -1;
  sum.top1 += (old.empty() ? none : old[0]) != (own.empty() ? none : own[0]) ? 1 : 0;
  std::size_t common = 0;
  Index both = 0;
  Index either = 0;
  for (std::size_t i = 0; i < old.size(); ++i)
    either += before.is_served(a, static_cast<Index>(i)) ? 1 : 0;
  for (std::size_t j = 0; j < own.size(); ++j) {
    const bool serves = after.is_served(b, static_cast<Index>(j));
    either += serves ? 1 : 0;
    for (std::size_t i = 0; i < old.size(); ++i) {
      if (old[i] != own[j]) continue;
      ++common;
      both += serves && before.is_served(a, static_cast<Index>(i)) ? 1 : 0;
    }
  }
  either -= both;
  sum.set += common != old.size() || common != own.size() ? 1 : 0;
  sum.iou += either > 0 ? 1 - static_cast<double>(both) / static_cast<double>(either) : 1;
}
inline RoutingChange mean_change(RoutingChange sum, Index tokens) {
  if (tokens == 0) return {};
  const auto n = static_cast<double>(tokens);
  return {sum.top1 / n, sum.set / n, sum.iou / n};
}
}  // namespace detail

/// What became of each token; 0 without tokens.
/// @throws shape_error unless both have as many tokens
inline RoutingChange routing_change(const TokenExperts& before, const TokenExperts& after) {
  if (before.tokens() != after.tokens())
    throw_shape("moxie::routing_change: after has ", after.tokens(), " tokens, expected ",
                before.tokens(), " as before");
  RoutingChange sum;
  for (Index t = 0; t < before.tokens(); ++t) detail::add_change(before, t, after, t, sum);
  return detail::mean_change(sum, before.tokens());
}

/// The same for tokens that correspond: `pairs` [N, 2] is (token before, token after), as
/// `append_pairs` makes them. 0 without pairs.
/// @throws shape_error if a pair names no token
inline RoutingChange routing_change(const TokenExperts& before, const TokenExperts& after,
                                    std::span<const std::int32_t> pairs) {
  RoutingChange sum;
  for (std::size_t i = 0; i + 1 < pairs.size(); i += 2) {
    const Index a = pairs[i];
    const Index b = pairs[i + 1];
    if (a < 0 || a >= before.tokens() || b < 0 || b >= after.tokens())
      throw_shape("moxie::routing_change: a pair is (", a, ", ", b, "), expected tokens below ",
                  before.tokens(), " and ", after.tokens());
    detail::add_change(before, a, after, b, sum);
  }
  return detail::mean_change(sum, static_cast<Index>(pairs.size() / 2));
}

}  // namespace moxie
