#pragma once

#include "moxie/regularizer/concept.hpp"

namespace moxie {

/// How a loss's weight falls over training: by 1 - t, or to nothing after half of it; t is the
/// progress in [0, 1].
enum class LossDecay { none, linear, step };

/// What a weight is multiplied by at progress t.
constexpr double decay_factor(LossDecay decay, double t) {
  if (decay == LossDecay::linear) return t < 1 ? 1 - t : 0;
  if (decay == LossDecay::step) return t <= 0.5 ? 1 : 0;
  return 1;
}

/// A regularizer whose weight falls over training: WithDecay{LossDecay::linear, Importance{.weight
/// = 0.01}}. Where nothing is left of the weight, the loss is 0 and costs nothing. Source: the code
/// of Pairwise Router Consistency.
template <class A>
struct WithDecay : A {
  LossDecay decay = LossDecay::none;

  WithDecay() = default;
  constexpr WithDecay(LossDecay how, A base) : A(base), decay(how) {}

  template <Backend B, class Routing>
  requires Regularizer<A, B, Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    if (factor(ctx) == 0) {
      b.fill(sums, typename B::Scalar(0));
    } else {
      A::accumulate(b, ctx, r, sums);
    }
  }
  template <Backend B, class Routing>
  requires Regularizer<A, B, Routing>
  void loss(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
            Vector<B> out) const {
    if (const double f = factor(ctx); f == 0) {
      b.fill(out, typename B::Scalar(0));
    } else {
      scaled(f).loss(b, ctx, r, sums, out);
    }
  }
  template <Backend B, class Routing>
  requires Regularizer<A, B, Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    if (const double f = factor(ctx); f != 0) scaled(f).loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const WithDecay&, const WithDecay&) = default;

 private:
  template <class Context>
  double factor(const Context& ctx) const {
    return decay_factor(decay, ctx.progress);
  }
  A scaled(double by) const {
    A a = *this;
    a.weight *= by;
    return a;
  }
};
template <class A>
WithDecay(LossDecay, A) -> WithDecay<A>;

}  // namespace moxie
