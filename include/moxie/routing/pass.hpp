#pragma once

#include <cstdint>
#include <span>

#include "moxie/core/arena.hpp"
#include "moxie/core/random.hpp"
#include "moxie/routing/anchor.hpp"

namespace moxie {

enum class Mode { train, eval };

/// What routes have in the place of an expert that was chosen and dropped for want of a slot: below -1, which is none.
MOXIE_HD constexpr std::int32_t dropped_route(Index expert) {
  return static_cast<std::int32_t>(-2 - expert);
}
/// The expert that an entry of routes names, kept or dropped; -1 = none.
MOXIE_HD constexpr Index routed_expert(Index entry) { return entry < -1 ? -2 - entry : entry; }

/// Routing given from outside to one MoE layer: replayed, frozen, swapped, or by rank. The layer keeps the
/// router's scores, replaces its selection, and has the router weigh the choices. Nothing is dropped but what is marked
/// by `dropped_route`: such a choice takes no row, but counts wherever the choices of a token do, as it did when it was
/// recorded: in the sum that weights are divided by, in losses, and in the weight that IdentityOverflow returns.
///
/// On a host the tape needs room for as many rows as choices are kept; on a device, whose memory is not read, for all.
template <class B>
struct Routes {
  enum class Weights {
    gate,   ///< from this pass's scores, with gradient
    given,  ///< `weight`, constants
    unit    ///< 1, constants
  };
  /// [T, K'] experts, -1 = none, or dropped_route(expert); K' at most the router's K
  ConstIntMatrix<B> choice{};
  ConstMatrix<B> weight{};  ///< [T, K'] when given
  Weights weights = Weights::gate;
  /// >= 0 instead of `choice`: the expert of that rank among those of this pass, alone (0 is the best), by what the
  /// router selects by: a plan, a bias and groups included; experts outside a token's groups come last, the lower first.
  Index rank = -1;

  bool empty() const { return !choice && rank < 0; }
};

/// What a pass is told. Everything has a default and nothing is stored: the same layer, with different tapes,
/// runs passes of different kinds at the same time.
template <class B>
struct Pass {
  Mode mode = Mode::train;
  /// At most this much: a tape bound for all gradients may run an input-gradient pass (attacks).
  Gradients gradients = Gradients::all;
  std::uint64_t seed = 0;  ///< of all randomness in the pass
  std::uint64_t step = 0;  ///< counts training steps: fresh noise each
  double progress = 0;     ///< share of the training that is over, in [0, 1]
  Index first_token = 0;   ///< number of the first row among all rows of a batch split over passes
  bool regularizers = true;
  /// [T], 0 = padding: routes nowhere, takes no slot, enters no loss. Empty: every token counts. Padded rows of x are
  /// still scored, so they must be finite: a NaN in one stops the pass as one in any other row does.
  ConstIntVector<B> mask{};
  /// [N, 2] rows that correspond in two views, (row of view a, row of view b), for consistency
  /// regularizers (vision/stacked_pairs.hpp makes them). A pair that names no row of the pass, as -1, is
  /// none.
  ConstIntMatrix<B> pairs{};
  /// One per MoE layer, in order; empty: the routers decide.
  std::span<const Routes<B>> routes{};
  /// One per MoE layer, in order; empty: no such loss.
  RouterAnchors<B> anchors{};
  /// Number of the next MoE layer; a network that holds several counts it up.
  Index moe_layer = 0;

  Pass with(std::span<const Routes<B>> r) const {
    Pass p = *this;
    p.routes = r;
    return p;
  }
  Pass without_regularizers() const {
    Pass p = *this;
    p.regularizers = false;
    return p;
  }
  Pass at_layer(Index layer) const {
    Pass p = *this;
    p.moe_layer = layer;
    return p;
  }
};

/// Sizes of one routing. Letters as in docs/glossary.md.
struct RoutingShape {
  Index tokens = 0;    ///< T = G * S
  Index experts = 0;   ///< E
  Index choices = 0;   ///< K of token choice; 1 for expert choice and soft
  Index group = 0;     ///< S: capacity is decided inside S consecutive tokens
  Index capacity = 0;  ///< C: slots of one expert in one group, as the rule gives it (not clamped)
  Index assignments = 0;  ///< the most (token, expert) pairs there can be
  Index rows = 0;         ///< the most rows that can be dispatched

  MOXIE_HD Index groups() const { return group > 0 ? tokens / group : 0; }
};

/// What the layer tells its policies about the pass: the Pass, plus where it runs.
template <class B>
struct Context {
  Mode mode = Mode::train;
  Gradients gradients = Gradients::all;
  RoutingShape shape{};
  double progress = 0;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  Index layer = 0;
  Index first_token = 0;
  ConstIntVector<B> mask{};
  ConstIntMatrix<B> pairs{};

  /// The random numbers of one purpose in this layer and step; count by global token.
  Random random(const char* purpose) const {
    return {seed, step, stream_id(purpose, static_cast<std::uint64_t>(layer))};
  }
};

}  // namespace moxie
