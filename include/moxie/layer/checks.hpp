#pragma once

#include <cstdint>
#include <limits>

#include "moxie/capacity/assign.hpp"
#include "moxie/layer/router_parts.hpp"

namespace moxie {

/// Sizes of a MoE layer. Capacity is decided inside `group` consecutive tokens.
struct MoeShape {
  Index width = 0;         ///< D
  Index experts = 0;       ///< E
  Index group = 0;         ///< S; 0 = all tokens of the pass
  std::uint64_t seed = 0;  ///< of the initial parameters, if the layer owns them
};

/// What makes no sense when a MoeLayer is made; each check throws config_error.
namespace detail {

inline void check_moe_shape(const MoeShape& shape) {
  if (shape.width < 1)
    throw_config("moxie::MoeLayer: shape.width is ", shape.width, ", expected >= 1");
  if (shape.experts < 1)
    throw_config("moxie::MoeLayer: shape.experts is ", shape.experts, ", expected >= 1");
  if (shape.group < 0)
    throw_config("moxie::MoeLayer: shape.group is ", shape.group,
                 ", expected >= 0 (0 = all tokens of the pass)");
}

/// Whether another token than the lower one may be served first.
template <Backend B, Capacity C>
bool has_priority(const C& capacity) {
  if constexpr (requires { capacity.priority; }) {
    using P = std::remove_cvref_t<decltype(capacity.priority)>;
    if constexpr (std::constructible_from<P, TokenPriority>) {  // that, or a type that may hold it
      return !(capacity.priority == P(TokenPriority{}));
    } else {
      return true;
    }
  } else if constexpr (requires {
                         capacity.train;
                         capacity.eval;
                       }) {
    return has_priority<B>(capacity.train) || has_priority<B>(capacity.eval);
  } else {
    return HasPriority<C, B>;
  }
}

/// Where experts choose or slots are soft, every slot is filled: a priority has nothing to decide, nothing overflows, and
/// without a limit each expert would take every token.
template <Backend B, Capacity C>
void check_filled_slots(const C& capacity) {
  for (const Mode mode : {Mode::train, Mode::eval})
    if (is_dropless(capacity, mode))
      throw_config(
          "moxie::MoeLayer: the capacity is Dropless, but this router fills every slot there is: "
          "each expert would take every token; expected a number of slots (CapacityFactor, "
          "FixedCapacity)");
  if (has_priority<B>(capacity))
    throw_config(
        "moxie::MoeLayer: the capacity has a priority, but this router fills every slot there is: "
        "no token queues for one; expected no priority (or TokenPriority)");
  if (reroutes<B>(capacity) || returns_dropped(capacity))
    throw_config(
        "moxie::MoeLayer: the capacity has an overflow policy, but this router fills every slot "
        "there is: nothing overflows; expected no policy (or Drop)");
}

/// Whether lists of assignments, and of the rows they are dispatched to, can be numbered.   @throws shape_error
inline void check_numbered(const RoutingShape& s, Index rows) {
  constexpr Index most = (std::numeric_limits<std::int32_t>::max)();
  if (s.assignments > most)
    throw_shape("moxie::MoeLayer: ", s.tokens, " tokens are up to ", s.assignments,
                " assignments, expected at most ", most, ": they are numbered in 32 bits");
  if (rows > most)
    throw_shape("moxie::MoeLayer: ", s.tokens, " tokens are dispatched to ", rows,
                " rows, expected at most ", most, ": they are numbered in 32 bits");
}

/// What an overflow policy needs of the other parts.
template <Backend B, class R, Capacity C>
void check_overflow(const R& router, const C& capacity, Index width, Index output) {
  if (reroutes<B>(capacity) && !is_composed<B>(router))
    throw_config(
        "moxie::MoeLayer: the capacity gives overflowing choices another expert, but this router "
        "has no weigh");
  if (returns_dropped(capacity) && output != width)
    throw_config(
        "moxie::MoeLayer: dropped weight is returned to the token itself (IdentityOverflow), but "
        "the experts map a width of ",
        width, " to ", output, ", expected the same");
}

/// What a pass asks a layer of these sizes to move away from.   @throws shape_error too
template <class B>
void check_anchor(const RouterAnchor<B>& anchor, const Pass<B>& pass, const RoutingShape& s,
                  bool soft) {
  if (!anchor.logits) return;
  if (soft)
    throw_config(
        "moxie::MoeLayer::forward: pass.anchors: this layer is soft: its tokens have no "
        "probabilities of experts to move away from");
  if (pass.mask)
    throw_config("moxie::MoeLayer::forward: pass.anchors: the pass has a mask, expected none");
  if (anchor.logits.rows != s.tokens || anchor.logits.cols != s.experts)
    throw_shape("moxie::MoeLayer::forward: pass.anchors: logits are [", anchor.logits.rows, " x ",
                anchor.logits.cols, "], expected [", s.tokens, " x ", s.experts, "]");
}

}  // namespace detail
}  // namespace moxie
