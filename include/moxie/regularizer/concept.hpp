#pragma once

#include <concepts>
#include <string_view>

#include "moxie/routing/tensors.hpp"

/// A Regularizer is a loss on the routing of one pass. It is a function of sums over tokens, so that tokens can be
/// spread over passes or ranks: the sums are added first, then `loss` squares whatever it squares.
///
/// Members:
///   static constexpr std::string_view name;
///   static constexpr bool per_group;         the sums stay inside a group (else they cover the whole batch)
///   double weight;                           0 costs and changes nothing
///   Index sums(const RoutingShape&) const;   how many numbers it sums
///   void accumulate(B&, const Context<B>&, const Routing&, Vector<B> sums) const;   overwrites sums
///   void loss(B&, const Context<B>&, const Routing&, ConstVector<B> sums, Vector<B> out) const;
///                                            out[0] = weight * loss; any Routing is the pass's own. Room that
///                                            accumulate sets to 0 it may use for notes (AnyRegularizers)
///   void loss_backward(B&, const Context<B>&, const Routing&, ConstVector<B> sums,
///                      RoutingGradients<Routing>&) const;   adds to d(logits), d(probs), ...
///
/// A regularizer takes every kind of routing that has what it reads: those of probabilities alone ask for
/// HasProbabilities, those of choices or noisy logits for SparseRouting.
///
/// Laws: gradient check; `accumulate` is additive over tokens (over pairs, if it reads those); finite when one expert takes everything; masked tokens
/// enter nothing.
namespace moxie {

/// Routing with `probs` [T, E], what each token gives to each expert, and its gradient.
template <class Routing, class B>
concept HasProbabilities = requires(const Routing& r, const RoutingGradients<Routing>& g) {
  { r.shape } -> std::convertible_to<RoutingShape>;
  { r.probs } -> std::convertible_to<ConstMatrix<B>>;
  { g.probs } -> std::convertible_to<Matrix<B>>;
};

/// Routing with `logits`, one row a token, and their gradient.
template <class Routing, class B>
concept HasLogits = requires(const Routing& r, const RoutingGradients<Routing>& g) {
  { r.shape } -> std::convertible_to<RoutingShape>;
  { r.logits } -> std::convertible_to<ConstMatrix<B>>;
  { g.logits } -> std::convertible_to<Matrix<B>>;
};

template <class A, class B, class Routing>
concept Regularizer = Backend<B> &&
    requires(const A& a, B& b, const Context<B>& ctx, const Routing& r, const RoutingShape& shape,
             Vector<B> v, ConstVector<B> sums, RoutingGradients<Routing>& g) {
  { A::name } -> std::convertible_to<std::string_view>;
  { A::per_group } -> std::convertible_to<bool>;
  { a.weight } -> std::convertible_to<double>;
  { a.sums(shape) } -> std::same_as<Index>;
  a.accumulate(b, ctx, r, v);
  a.loss(b, ctx, r, sums, v);
  a.loss_backward(b, ctx, r, sums, g);
};

}  // namespace moxie
