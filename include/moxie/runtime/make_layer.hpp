#pragma once

#include <array>
#include <string>
#include <string_view>

#include "moxie/expert/feed_forward.hpp"
#include "moxie/expert/gated.hpp"
#include "moxie/gate/cosine.hpp"
#include "moxie/gate/jitter.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/router/soft.hpp"
#include "moxie/runtime/any_capacity.hpp"
#include "moxie/runtime/any_expert.hpp"
#include "moxie/runtime/any_gate.hpp"
#include "moxie/runtime/router_registry.hpp"

namespace moxie {

inline constexpr std::array<std::string_view, 2> gate_names = {"linear", "cosine"};
inline constexpr std::array<std::string_view, 3> expert_names = {"mlp", "swiglu", "geglu"};

/// @throws config_error for a name that is none of `gate_names`
template <Backend B>
AnyGate<B> make_gate(const RouterConfig& c) {
  const auto jittered = [&c]<class G>(G gate) -> AnyGate<B> {
    if (c.jitter == 0) return gate;
    return WithJitter{InputJitter{.epsilon = c.jitter}, gate};
  };
  if (c.gate == "linear") return jittered(LinearGate{});
  if (c.gate == "cosine") return jittered(CosineGate{});
  throw_unknown_name("moxie::make_gate", "gate", c.gate, gate_names);
}

/// @throws config_error for a name that is none of `expert_names`
template <Backend B>
AnyExpert<B> make_expert(const ExpertConfig& c) {
  if (c.kind == "mlp") return FeedForward<Gelu>{.hidden = c.hidden, .same_experts = c.same_experts};
  if (c.kind == "swiglu") return SwiGLU{.hidden = c.hidden, .same_experts = c.same_experts};
  if (c.kind == "geglu") return GEGLU{.hidden = c.hidden, .same_experts = c.same_experts};
  throw_unknown_name("moxie::make_expert", "expert", c.kind, expert_names);
}

/// The capacity of a configuration, a Capacity with priority and overflow policy.
using ConfiguredCapacity =
    WithOverflow<AnyOverflow, WithPriority<AnyPriority, TrainEval<AnyCapacity, AnyCapacity>>>;

/// @throws config_error for an unknown name, or a factor for evaluation that is not a number >= 0
inline ConfiguredCapacity make_capacity(const CapacityConfig& c) {
  if (!(c.eval_factor >= 0))
    throw_config("moxie::make_capacity: eval_factor is ", c.eval_factor,
                 ", expected a number > 0, or 0 (as in training)");
  AnyCapacity train = FixedCapacity{c.slots};
  if (c.slots <= 0) train = make_capacity(c.rule, c.factor, c.multiple_of);
  AnyCapacity eval = train;
  if (!c.eval_rule.empty() || c.eval_factor > 0) {
    const std::string& rule = c.eval_rule.empty() ? c.rule : c.eval_rule;
    // The multiple is the training rule's: another one in evaluation may have its own.
    const bool rounds = rule == "ceil" || rule == "round" || rule == "floor";
    eval = make_capacity(rule, c.eval_factor > 0 ? c.eval_factor : c.factor,
                         rounds || rule == c.rule ? c.multiple_of : 1);
  }
  return {make_overflow(c.overflow), {make_priority(c.priority), {train, eval}}};
}

namespace detail {
/// Slots are all there is where experts choose or slots are soft: what decides between tokens has no place there.
inline void refuse_overflow(std::string_view router, const CapacityConfig& c, std::string_view why) {
  const auto refuse = [&](std::string_view what, std::string_view value, std::string_view expected) {
    throw_config("moxie::make_layer: router '", router, "' cannot use ", what, " '", value, "' (", why,
                 "): expected ", expected);
  };
  if (c.rule == "dropless" && c.slots <= 0)
    refuse("capacity", c.rule, "a capacity factor or a number of slots");
  if (c.eval_rule == "dropless") refuse("capacity", c.eval_rule, "a capacity factor or none");
  if (c.priority != "first") refuse("priority", c.priority, "first");
  if (c.overflow != "drop") refuse("overflow", c.overflow, "drop");
}
}  // namespace detail

/// The MoE layer of a configuration, as a part of a model; the model initializes its parameters. There is one type of
/// layer for each kind of routing: parts are chosen, not their product.
/// @throws config_error for a name that there is not, with the nearest one there is; for a combination that makes no
/// sense, with the reason
template <Backend B>
AnyLayer<B> make_layer(const Scope<B>& scope, const MoeConfig& c,
                       const RouterRegistry<B>& registry = {}) {
  const ConfiguredCapacity capacity = make_capacity(c.capacity);
  if (c.router.name == "soft") {
    detail::refuse_overflow("soft", c.capacity, "its slots are weighted means of all tokens");
    if (c.router.gate != "linear" || c.router.jitter != 0)
      throw_config("moxie::make_layer: router 'soft' has a gate of its own, which scores slots: gate '",
                   c.router.gate, "' and jitter ", c.router.jitter, " are not for it");
    if (c.router.bias_rate != 0)
      throw_config("moxie::make_layer: router 'soft' chooses nothing that bias_rate ",
                   c.router.bias_rate, " could balance: expected 0");
    (void)make_noise(c.router.noise_kind, c.router.noise);
    if (c.router.noise != 0 && c.router.noise_kind == "gumbel")
      throw_config("moxie::make_layer: router 'soft' takes Gaussian noise only, got 'gumbel'");
    const SoftRouter router{.noise = c.router.noise, .gate = {.cosine = c.router.cosine}};
    return MoeLayer{scope,
                    c.shape,
                    router,
                    capacity,
                    make_expert<B>(c.expert),
                    make_regularizers<B, SoftRouting<B>>(c.regularizers)};
  }
  const AnyRouter<B> router = registry.make(c.router);
  if (router.own_gate() && (c.router.gate != "linear" || c.router.jitter != 0))
    throw_config("moxie::make_layer: router '", c.router.name, "' brings its own gate: gate '",
                 c.router.gate, "' and jitter ", c.router.jitter, " are not for it");
  if (router.ragged())
    detail::refuse_overflow(c.router.name, c.capacity, "its experts choose tokens and are always full");
  for (const RegularizerChoice& loss : c.regularizers)
    if ((loss.name == NoisyLoad::name || loss.name == TutelLoad::name) && loss.weight != 0.0 &&
        !router.noisy())
      throw_config("moxie::make_layer: the loss '", loss.name, "' needs noise, and router '",
                   c.router.name, "' has none: ", "give it noise (or another router, if it takes none), or leave the loss out");
  return MoeLayer{scope,
                  c.shape,
                  WithGate{router.own_gate() ? *router.own_gate() : make_gate<B>(c.router), router},
                  capacity,
                  make_expert<B>(c.expert),
                  make_regularizers<B>(c.regularizers)};
}

}  // namespace moxie
