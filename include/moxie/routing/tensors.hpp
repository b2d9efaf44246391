#pragma once

#include "moxie/core/arena.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/routing/pass.hpp"

namespace moxie {

/// What a router and its layer need memory for, beyond the basics (router/concept.hpp: routing_traits).
struct RoutingTraits {
  /// a token has 0..E experts (expert choice): lists of assignments with `first`
  bool ragged = false;
  bool noisy = false;             ///< dispatch may use other logits than the losses
  bool plan = false;              ///< the router ranks by a transport plan
  std::size_t scratch_bytes = 0;  ///< memory of the router's own, within one call
};

/// Sparse routing tensors: lists of assignments, token-major, with both directions of the map between
/// assignments and rows, so that dispatch, combine and both backwards are gathers in a fixed order.
///
/// An assignment is one (token, expert) pair; assignment a of token t lies in [begin(t), end(t)).
template <Backend B>
struct SparseRouting {
  /// Gradients of a scalar loss with respect to the tensors of the same name.
  struct Gradients {
    Matrix<B> logits;       ///< [T, E] of the clean logits: what goes into the gate
    Matrix<B> probs;        ///< [T, E]
    Matrix<B> noisy_probs;  ///< [T, E]; the same memory as `probs` without noise
    Matrix<B> plan;         ///< [T, E]; empty without a plan
    Matrix<B> weight;       ///< like `weight`

    /// Memory for all gradients of `r`, gone with the arena's Scope.
    void bind(Arena<B>& arena, const SparseRouting& r, const RoutingTraits& traits) {
      using T = typename B::Scalar;
      logits = arena.template scratch<T>(r.shape.tokens, r.shape.experts);
      probs = arena.template scratch<T>(r.shape.tokens, r.shape.experts);
      noisy_probs =
          traits.noisy ? arena.template scratch<T>(r.shape.tokens, r.shape.experts) : probs;
      if (traits.plan) plan = arena.template scratch<T>(r.shape.tokens, r.shape.experts);
      weight = arena.template scratch<T>(r.weight.rows, r.weight.cols);
    }
    /// The views for `r`'s pass, zeroed but for `weight`, which combine's backward overwrites.
    Gradients begin(B& b, const SparseRouting& r) const {
      Gradients g = *this;
      const Index tokens = r.shape.tokens;
      g.logits = logits.top(tokens);
      g.probs = probs.top(tokens);
      g.noisy_probs = r.noisy() ? noisy_probs.top(tokens) : g.probs;
      if (plan) g.plan = plan.top(tokens);
      g.weight = weight.top(r.weight.rows);
      const auto zero = [&b](Matrix<B> m) { b.fill(Vector<B>(m.data, m.size()), 0); };
      zero(g.logits);
      zero(g.probs);
      if (r.noisy()) zero(g.noisy_probs);
      if (plan) zero(g.plan);
      return g;
    }
  };

  RoutingShape shape{};
  Matrix<B> logits;        ///< [T, E] clean
  Matrix<B> noisy_logits;  ///< [T, E] what selection ranks by; `logits` itself without noise
  Matrix<B> probs;         ///< [T, E] softmax of logits
  Matrix<B> noisy_probs;   ///< [T, E] softmax of noisy_logits; `probs` itself without noise
  /// [T, E] what selection ranks by if the router makes a plan, else empty; `noisy_probs` itself in
  /// a pass for which it makes none (planned())
  Matrix<B> plan;
  ConstIntVector<B> mask;  ///< [T] of the pass: 0 = padding; empty: every token counts
  /// [E] added to the scores in selection alone (loss-free balancing), else empty
  ConstVector<B> bias;
  /// [T, K] expert of each assignment in descending order, -1 = none; or [A, 1]
  IntMatrix<B> choice;
  Matrix<B> weight;  ///< like choice: what combine multiplies by
  /// like choice: place in the expert's queue, counts on past C for the dropped
  IntMatrix<B> slot;
  IntMatrix<B> row;         ///< like choice: dispatched row, -1 = dropped
  IntVector<B> first;       ///< [T + 1] when ragged, else empty; lists are filled up to first[T]
  IntVector<B> token;       ///< [R] token of each row
  IntVector<B> assignment;  ///< [R] assignment of each row
  IntVector<B> offset;      ///< [E + 1] rows of expert e are [offset[e], offset[e + 1])
  /// [1] index of the first logit (t * E + e) that is not finite, or -1
  VectorView<std::int64_t, typename B::Space> status;
  Scratch<B> scratch;    ///< the router's own, within one call
  double noise_std = 0;  ///< standard deviation of noisy_logits - logits in this pass

  MOXIE_HD Index begin(Index t) const { return first ? first[t] : t * choice.cols; }
  MOXIE_HD Index end(Index t) const { return first ? first[t + 1] : (t + 1) * choice.cols; }
  bool noisy() const { return noisy_logits.data != logits.data; }
  bool planned() const { return plan && plan.data != noisy_probs.data; }

  /// Takes memory for up to `s.tokens` tokens.
  void bind(Arena<B>& arena, const RoutingShape& s, const RoutingTraits& traits) {
    using T = typename B::Scalar;
    using Id = std::int32_t;
    shape = s;
    // Kept, though the backward alone needs some of it: what a visitor is shown must be what the pass saw.
    logits = arena.template kept<T>(s.tokens, s.experts);
    probs = arena.template kept<T>(s.tokens, s.experts);
    memory_.noisy_logits = logits;
    memory_.noisy_probs = probs;
    if (traits.noisy) {
      memory_.noisy_logits = arena.template kept<T>(s.tokens, s.experts);
      memory_.noisy_probs = arena.template kept<T>(s.tokens, s.experts);
    }
    if (traits.plan) memory_.plan = arena.template kept<T>(s.tokens, s.experts);
    plan = memory_.plan;
    const Index list_rows = traits.ragged ? s.assignments : s.tokens;
    const Index list_cols = traits.ragged ? 1 : s.choices;
    choice = arena.template kept<Id>(list_rows, list_cols);
    weight = arena.template kept<T>(list_rows, list_cols);
    slot = arena.template kept<Id>(list_rows, list_cols);
    row = arena.template kept<Id>(list_rows, list_cols);
    if (traits.ragged) first = arena.template kept<Id>(s.tokens + 1);
    token = arena.template kept<Id>(s.rows);
    assignment = arena.template kept<Id>(s.rows);
    offset = arena.template kept<Id>(s.experts + 1);
    status = arena.template kept<std::int64_t>(1);
    scratch = arena.scratch_bytes(traits.scratch_bytes);
    memory_.rows = s.rows;
  }

  /// The views for a pass of shape `s`, which fits into what was bound.
  void resize(const RoutingShape& s, bool with_noise) {
    shape = s;
    logits.rows = probs.rows = s.tokens;
    noisy_logits = with_noise ? memory_.noisy_logits.top(s.tokens) : logits;
    noisy_probs = with_noise ? memory_.noisy_probs.top(s.tokens) : probs;
    if (memory_.plan) plan = memory_.plan.top(s.tokens);
    if (first) first.size = s.tokens + 1;
    choice.rows = weight.rows = slot.rows = row.rows = first ? s.assignments : s.tokens;
    token.size = assignment.size = s.rows;
    noise_std = 0;
  }

  /// Rows there is memory for.
  Index bound_rows() const { return memory_.rows; }

 private:
  struct {
    Matrix<B> noisy_logits, noisy_probs, plan;
    Index rows = 0;
  } memory_;
};

template <class Routing>
using RoutingGradients = typename Routing::Gradients;
/// The kind of routing tensors that router R fills on backend B.
template <class R, class B>
using RoutingOf = typename R::template Routing<B>;

}  // namespace moxie
