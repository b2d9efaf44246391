#pragma once

#include <concepts>

#include "moxie/routing/tensors.hpp"

/// A Router turns logits into routing tensors. It is a value of hyper-parameters and owns no parameters.
///
/// Members:
///   template <Backend B> using Routing = SparseRouting<B>;   or SoftRouting<B>
///   Index choices(Index experts) const;           the factor in the capacity formula: K; 1 for expert choice and soft
///   Index assignments(const RoutingShape&) const; the most (token, expert) pairs there can be
///   void route(B&, const Context<B>&, Routing<B>&) const;
///   void route_backward(B&, const Context<B>&, const Routing<B>&, RoutingGradients<Routing<B>>&) const;
///                                                 turns d(weight), d(probs) into d(logits), which it adds to
/// Optional:
///   score, select, weigh(B&, const Context<B>&, Routing<B>&) const;   the three parts of `route`; a router that
///       has them also accepts choices from outside (Pass::routes)
///   ConstMatrix<B> ranked(B&, const Context<B>&, const Routing<B>&) const;   after `score`: [T, E], what `select` takes
///       the largest of, perhaps in r.scratch; a composed router that has it accepts routes by rank (Routes::rank)
///   bool noisy() const;                           training may rank by other logits than the losses see
///   bool ragged() const;                          experts choose: `select` fills rows and ragged lists itself,
///                                                 min(capacity, S) slots an expert and group, and nothing overflows
///   bool plans() const;                           selection ranks by r.plan
///   static constexpr bool ranks_logits = true;    without a bias, a token's experts are its largest r.noisy_logits,
///                                                 whatever other tokens have (WithBlocks asks for it)
///   double bias_rate() const;                     > 0: the layer keeps a bias for selection (r.bias), moved after each
///                                                 training step against the load (router/bias.hpp)
///   std::size_t scratch_bytes(const B&, const RoutingShape&) const;   r.scratch
///   void check(Index experts) const;              throws config_error if the hyper-parameters make no sense
///   GateType gate, DispatcherType dispatcher      what its layer uses instead of LinearGate and GatherDispatcher
///   WithGate, WithDispatcher, WithNoise           adaptors that wrap a router
///
/// Laws (testing/laws.hpp): the experts of a token are distinct; weights are >= 0; ties go to the lower index; the
/// result depends on (logits, seed, step) only: not on the number of threads, nor on the neighbours in the batch
/// unless the rule itself is global; masked tokens get no expert.
namespace moxie {

namespace detail {
template <class R, class B>
concept HasRoute = requires(const R& r, B& b, const Context<B>& ctx, RoutingOf<R, B>& out) {
  r.route(b, ctx, out);
};
template <class R, class B>
concept HasRouteBackward = requires(const R& r, B& b, const Context<B>& ctx,
                                    const RoutingOf<R, B>& in,
                                    RoutingGradients<RoutingOf<R, B>>& g) {
  r.route_backward(b, ctx, in, g);
};
template <class R>
concept HasRouterSizes = requires(const R& r, Index experts, const RoutingShape& shape) {
  { r.choices(experts) } -> std::convertible_to<Index>;
  { r.assignments(shape) } -> std::convertible_to<Index>;
};
}  // namespace detail

template <class R, class B>
concept Router = Backend<B> && detail::HasRouterSizes<R> && detail::HasRoute<R, B> &&
    detail::HasRouteBackward<R, B>;

/// A router made of its three parts: it can weigh choices that come from outside.
template <class R, class B>
concept ComposedRouter = Router<R, B> &&
    requires(const R& r, B& b, const Context<B>& ctx, RoutingOf<R, B>& out) {
  r.score(b, ctx, out);
  r.select(b, ctx, out);
  r.weigh(b, ctx, out);
};

/// A composed router whose experts have ranks: it selects by scores that it can show.
template <class R, class B>
concept RankingRouter = ComposedRouter<R, B> &&
    requires(const R& r, B& b, const Context<B>& ctx, const RoutingOf<R, B>& in) {
  { r.ranked(b, ctx, in) } -> std::same_as<ConstMatrix<B>>;
};

/// What router `r` needs memory for in a pass of the given shape.
template <class R, class B>
RoutingTraits routing_traits(const R& r, const B& b, const RoutingShape& shape) {
  RoutingTraits traits;
  if constexpr (requires { r.ragged(); }) traits.ragged = r.ragged();
  if constexpr (requires { r.noisy(); }) traits.noisy = r.noisy();
  if constexpr (requires { r.plans(); }) traits.plan = r.plans();
  if constexpr (requires { r.scratch_bytes(b, shape); })
    traits.scratch_bytes = r.scratch_bytes(b, shape);
  return traits;
}

}  // namespace moxie
