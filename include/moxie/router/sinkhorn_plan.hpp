#pragma once

#include "moxie/ops/sinkhorn.hpp"
#include "moxie/ops/sinkhorn_backward.hpp"
#include "moxie/router/combine_source.hpp"
#include "moxie/router/concept.hpp"

/// What the routers share that rank by a Sinkhorn plan: R has the fields epsilon, iterations, tolerance, plan_at_eval
/// and combine_source.
namespace moxie::detail {

template <class R>
bool plans_in(const R& router, Mode mode) {
  return router.plan_at_eval || mode == Mode::train;
}
/// Without a plan the softmax stands in for it.
template <class R>
CombineSource sinkhorn_source(const R& router, Mode mode) {
  const bool replaced = router.combine_source == CombineSource::plan && !plans_in(router, mode);
  return replaced ? CombineSource::softmax_noisy : router.combine_source;
}
template <Backend B>
std::size_t sinkhorn_bytes(const RoutingShape& s) {
  Arena<B> forward(Gradients::all);
  SinkhornMemory<B>().bind(forward, s.tokens, s.experts, s.group);
  Arena<B> backward(Gradients::all);
  SinkhornBackwardMemory<B>().bind(backward, s.tokens, s.experts, s.group);
  return forward.peak() > backward.peak() ? forward.peak() : backward.peak();
}
template <Backend B>
Arena<B> scratch_arena(const SparseRouting<B>& r) {
  return Arena<B>(Gradients::all, r.scratch.data, static_cast<std::size_t>(r.scratch.size));
}

/// r.probs, r.noisy_probs and r.plan.
template <Backend B, class R>
void score_sinkhorn(B& b, const Context<B>& ctx, const R& router, SparseRouting<B>& r) {
  score_softmax(b, r);
  if (!plans_in(router, ctx.mode)) {
    r.plan = r.noisy_probs;
    return;
  }
  Arena<B> arena = scratch_arena(r);
  SinkhornMemory<B> memory;
  memory.bind(arena, r.shape.tokens, r.shape.experts, r.shape.group);
  sinkhorn(b, ConstMatrix<B>(r.noisy_logits), ctx.mask,
           SinkhornOptions{r.shape.group, router.epsilon, router.iterations, router.tolerance},
           memory, r.plan);
}
/// All of a Sinkhorn router's route_backward.
template <Backend B, class R>
void sinkhorn_router_backward(B& b, const Context<B>& ctx, const R& router, bool renormalize,
                              const SparseRouting<B>& r, RoutingGradients<SparseRouting<B>>& g) {
  const CombineSource source = sinkhorn_source(router, ctx.mode);
  weigh_by_backward(b, source, renormalize, r, g);
  if (source == CombineSource::plan) {  // noise is a constant: all goes to the clean logits
    Arena<B> arena = scratch_arena(r);
    SinkhornBackwardMemory<B> memory;
    memory.bind(arena, r.shape.tokens, r.shape.experts, r.shape.group);
    sinkhorn_backward(b, ConstMatrix<B>(r.plan), ConstMatrix<B>(g.plan), r.shape.group,
                      router.epsilon, memory, g.logits);
  }
  score_softmax_backward(b, r, g);
}
/// @throws config_error if the numbers of an iteration make no sense: logits over epsilon stay finite, in float as well
template <class R>
void check_sinkhorn(const char* who, const R& router) {
  if (!(router.epsilon >= 1e-6 && router.epsilon <= 1e6))
    throw_config(who, ": epsilon is ", router.epsilon, ", expected 1e-6 to 1e6");
  if (router.iterations < 1)
    throw_config(who, ": iterations is ", router.iterations, ", expected >= 1");
  if (!(router.tolerance >= 0 && router.tolerance <= 1e6))
    throw_config(who, ": tolerance is ", router.tolerance, ", expected 0 to 1e6");
}

}  // namespace moxie::detail
