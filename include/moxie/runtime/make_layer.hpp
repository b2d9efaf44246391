#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "moxie/expert/feed_forward.hpp"
#include "moxie/expert/gated.hpp"
#include "moxie/gate/cosine.hpp"
#include "moxie/gate/jitter.hpp"
#include "moxie/gate/with_gate.hpp"
#include "moxie/layer/any_layer.hpp"
#include "moxie/layer/residual.hpp"
#include "moxie/layer/shared.hpp"
#include "moxie/nn/mlp.hpp"
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

/// The capacity of a configuration, a Capacity with priorities and overflow policy.
using ConfiguredCapacity =
    WithOverflow<AnyOverflow, TrainEval<WithPriority<AnyPriority, AnyCapacity>,
                                        WithPriority<AnyPriority, AnyCapacity>>>;

namespace detail {
/// Each number that is given must have an effect.
inline void check_capacity(const CapacityConfig& c, std::string_view eval_rule, bool own_eval) {
  constexpr const char* who = "moxie::make_capacity: ";
  if (c.slots) {
    if (*c.slots < 1)
      throw_config(who, "slots is ", *c.slots, ", expected >= 1, or none (by rule and factor)");
    if (!c.rule.empty())
      throw_config(who, "rule is '", c.rule, "' beside slots ", *c.slots,
                   ", expected one of the two");
    if (c.factor)
      throw_config(who, "factor is ", *c.factor, " beside slots ", *c.slots,
                   ", expected one of the two");
    if (c.multiple_of != 1 && !own_eval)
      throw_config(who, "multiple_of is ", c.multiple_of, " beside slots ", *c.slots,
                   ", expected 1: a number of slots is not rounded");
  }
  const bool factor_for_eval = own_eval && eval_rule != "dropless" && !c.eval_factor;
  if (c.factor && c.rule == "dropless" && !factor_for_eval)
    throw_config(who, "factor is ", *c.factor,
                 " beside rule 'dropless', which has none, expected another rule or no factor");
  if (!c.eval_factor) return;
  if (!(*c.eval_factor > 0))
    throw_config(who, "eval_factor is ", *c.eval_factor,
                 ", expected a number > 0, or none (as in training)");
  if (eval_rule == "dropless")
    throw_config(who, "eval_factor is ", *c.eval_factor, " beside ",
                 c.eval_rule.empty() ? "rule" : "eval_rule",
                 " 'dropless', which has none, expected another eval_rule or no eval_factor");
}
}  // namespace detail

/// @throws config_error for an unknown name, or a number that makes no sense or would have no effect
inline ConfiguredCapacity make_capacity(const CapacityConfig& c) {
  const std::string rule = c.rule.empty() ? "ceil" : c.rule;
  const std::string& eval_rule = c.eval_rule.empty() ? rule : c.eval_rule;
  const bool own_eval = !c.eval_rule.empty() || c.eval_factor;
  detail::check_capacity(c, eval_rule, own_eval);
  const double factor = c.factor.value_or(CapacityFactor{}.factor);
  const AnyCapacity train =
      c.slots ? AnyCapacity(FixedCapacity{*c.slots}) : make_capacity(rule, factor, c.multiple_of);
  AnyCapacity eval = train;
  if (own_eval) {
    // The multiple is the training rule's: another one in evaluation may have its own.
    const bool rounds = eval_rule == "ceil" || eval_rule == "round" || eval_rule == "floor";
    eval = make_capacity(eval_rule, c.eval_factor.value_or(factor),
                         rounds || eval_rule == rule ? c.multiple_of : 1);
  }
  return {make_overflow(c.overflow),
          {{make_priority(c.priority), train},
           {make_priority(c.eval_priority.empty() ? c.priority : c.eval_priority), eval}}};
}

namespace detail {
/// Slots are all there is where experts choose or slots are soft: what decides between tokens has no place there.
inline void refuse_overflow(std::string_view router, const CapacityConfig& c,
                            std::string_view why) {
  const auto refuse = [&](std::string_view what, std::string_view value,
                          std::string_view expected) {
    throw_config("moxie::make_layer: router '", router, "' cannot use ", what, " '", value, "' (",
                 why, "): expected ", expected);
  };
  if (c.rule == "dropless") refuse("capacity", c.rule, "a capacity factor or a number of slots");
  if (c.eval_rule == "dropless") refuse("capacity", c.eval_rule, "a capacity factor or none");
  if (c.priority != "first") refuse("priority", c.priority, "first");
  if (!c.eval_priority.empty() && c.eval_priority != "first")
    refuse("eval_priority", c.eval_priority, "first");
  if (c.overflow != "drop") refuse("overflow", c.overflow, "drop");
}

/// What a soft router has where nothing is said: round(S / E) slots.
inline CapacityConfig soft_capacity(CapacityConfig c) {
  if (c.slots) return c;
  if (c.rule.empty()) c.rule = "round";
  if (!c.factor && c.rule != "dropless") c.factor = 1;
  return c;
}

template <Backend B>
AnyLayer<B> make_soft(const Scope<B>& scope, const MoeConfig& c) {
  const ConfiguredCapacity capacity = make_capacity(soft_capacity(c.capacity));
  refuse_overflow("soft", c.capacity, "its slots are weighted means of all tokens");
  if (c.router.gate != "linear" || c.router.jitter != 0)
    throw_config(
        "moxie::make_layer: router 'soft' has a gate of its own, which scores slots: gate '",
        c.router.gate, "' and jitter ", c.router.jitter, " are not for it");
  constexpr std::string_view nothing = "it chooses nothing";
  refuse(
      c.router,
      {.plan = Unusable::no_plan, .renormalize = nothing, .bias_rate = nothing, .blocks = nothing},
      "moxie::make_layer");
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

/// The layer without what stands beside it.
template <Backend B>
AnyLayer<B> make_mixture(const Scope<B>& scope, const MoeConfig& c,
                         const RouterRegistry<B>& registry) {
  if (c.router.name == "soft") return make_soft(scope, c);
  const ConfiguredCapacity capacity = make_capacity(c.capacity);
  const AnyRouter<B> router = registry.make(c.router);
  if (router.own_gate() && (c.router.gate != "linear" || c.router.jitter != 0))
    throw_config("moxie::make_layer: router '", c.router.name, "' brings its own gate: gate '",
                 c.router.gate, "' and jitter ", c.router.jitter, " are not for it");
  if (router.ragged())
    refuse_overflow(c.router.name, c.capacity, "its experts choose tokens and are always full");
  for (const RegularizerChoice& loss : c.regularizers)
    if ((loss.name == NoisyLoad::name || loss.name == TutelLoad::name) && loss.weight != 0.0 &&
        !router.noisy())
      throw_config("moxie::make_layer: the loss '", loss.name, "' needs noise, and router '",
                   c.router.name,
                   "' has none: give it noise (or another router, if it takes none), or "
                   "leave the loss out");
  return MoeLayer{scope,
                  c.shape,
                  WithGate{router.own_gate() ? *router.own_gate() : make_gate<B>(c.router), router},
                  capacity,
                  make_expert<B>(c.expert),
                  make_regularizers<B>(c.regularizers)};
}
}  // namespace detail

/// The MoE layer of a configuration, as a part of a model; the model initializes its parameters. There is one type of
/// layer for each kind of routing: parts are chosen, not their product. Parameters of what stands beside the mixture:
/// Shared/ of shared experts; Residual/ and coefficient/ of a residual layer.
/// @throws config_error for a name that there is not, with the nearest one there is; for a combination that makes no
/// sense, or an option that would have no effect, with the reason
template <Backend B>
AnyLayer<B> make_layer(const Scope<B>& scope, const MoeConfig& c,
                       const RouterRegistry<B>& registry = {}) {
  const SharedConfig& shared = c.shared;
  if (shared.number < 0 || shared.hidden < 0 || (shared.hidden > 0 && shared.number == 0))
    throw_config("moxie::make_layer: shared.number is ", shared.number, " and shared.hidden ",
                 shared.hidden, ", expected 0 of both, or a number >= 1 and hidden >= 0");
  if (c.residual && shared.number > 0)
    throw_config("moxie::make_layer: residual is true and shared.number ", shared.number,
                 ", expected one of them: both are a perceptron beside the mixture");
  AnyLayer<B> mixture = detail::make_mixture(scope, c, registry);
  const Index width = c.shape.width;
  if (c.residual)
    return ResidualMoe{scope, Mlp<B>(scope / "Residual", width, c.expert.hidden, width),
                       std::move(mixture)};
  if (shared.number == 0) return mixture;
  const Index hidden = shared.hidden > 0 ? shared.hidden : c.expert.hidden;
  return WithShared{Mlp<B>(scope / "Shared", width, shared.number * hidden, width),
                    std::move(mixture)};
}

}  // namespace moxie
