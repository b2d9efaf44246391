#pragma once

#include "moxie/core/math.hpp"
#include "moxie/regularizer/co_routing.hpp"
#include "moxie/regularizer/concept.hpp"

namespace moxie {

/// What the diagonal of the co-routing matrix is taken from.
enum class ConsistencyDiagonal {
  matrix,   ///< the matrix itself
  position  ///< one vector for each position of an image, as in the released code
};

/// Pairwise Router Consistency: what corresponds in two views of an image is to be routed alike. With
/// p the clean probabilities of a token, over the N pairs (a, b) of `Pass::pairs` that count:
///
///   M     = E / N * sum of p_a p_b^T                       [E, E], its entries sum to E
///   loss  = weight * (diagonal * mean_e (M_ee - 1)^2 + off_diagonal * mean_{e != f} M_ef^2)
///
/// 0 only where routes are sure, alike in both views, and balanced: M is the identity. It takes every routing with
/// probabilities: of soft routing they are what combine gives each expert. Without pairs it is 0 and
/// costs nothing. A layer has its own, so each may have its own weights. Sums cover the whole batch.
///
/// ConsistencyDiagonal::position is what the released code computes, whose sum runs over the images
/// alone: V_x = E / N * sum over the pairs with token a at position x of p_a * p_b, elementwise, and
/// the diagonal part is the mean over positions and experts of (V_xe - 1)^2. V is about M_ee / X, so
/// the pull is X times weaker (X = 50 for images of 224 and patches of 32) and nearly linear; it is
/// not least at the identity, and what it has against one expert for all tokens falls from E - 1 to about
/// 0.003 for E = 8: beside it, balance needs another loss. The weights here are that code's; the
/// matrix wants less on the diagonal: try 1e-4, 5e-4, 5e-3.
///
/// Source: "Robustifying Routers Against Input Perturbations for Sparse Mixture-of-Experts Vision
/// Transformers", 2025 (10.1109/OJSP.2025.3536853), its figure and its code, `app/vmoe/nn/routing.py`.
struct PairwiseConsistency {
  double weight = 1;  ///< of both parts
  double diagonal = 5e-3;
  double off_diagonal = 5e-2;
  ConsistencyDiagonal form = ConsistencyDiagonal::matrix;
  /// With `position`: tokens of an image, which token a is counted by. The pass holds whole images.
  Index tokens_per_image = 0;
  /// With `position`: X, the last so many tokens of an image; 0 = all. One less leaves out a class
  /// token whose pair is not given.
  Index positions = 0;

  static constexpr std::string_view name = "pairwise_consistency";
  static constexpr bool per_group = false;

  /// @throws config_error if `position` lacks the size of an image, or a weight is not finite
  Index sums(const RoutingShape& s) const {
    if (!math::is_finite(diagonal) || !math::is_finite(off_diagonal))
      throw_config("moxie::PairwiseConsistency: diagonal is ", diagonal, " and off_diagonal ",
                   off_diagonal, ", expected finite numbers");
    if (form == ConsistencyDiagonal::position &&
        (tokens_per_image < 1 || positions < 0 || positions > tokens_per_image))
      throw_config("moxie::PairwiseConsistency: tokens_per_image is ", tokens_per_image,
                   " and positions is ", positions,
                   ", expected at least 1 and 0 to tokens_per_image, which "
                   "ConsistencyDiagonal::position counts by");
    return sizes(s).all();
  }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    if (idle(ctx)) {
      b.fill(sums, typename B::Scalar(0));
      return;
    }
    const detail::CoRoutingSizes size = sizes(r.shape);
    const detail::PairRows<B> rows = detail::pair_rows(ctx, r.shape);
    const Vector<B> room = sums.middle(size.used(), size.all() - size.used());
    b.for_each(detail::co_routing_parts(size.experts) * (size.experts + 1),
               detail::CoRoutingPart<B>{rows, r.probs, room}, 1);
    b.for_each(size.sums(), detail::CoRoutingSum<B>{room, sums.middle(0, size.sums())});
    b.for_each(size.positions,
               detail::PositionSum<B>{rows, r.probs, size,
                                      sums.middle(size.sums(), size.used() - size.sums())},
               1);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
            Vector<B> out) const {
    if (idle(ctx)) {
      b.fill(out, typename B::Scalar(0));
    } else {
      b.for_each(1, detail::CoRoutingLoss<B>{terms<B>(r.shape, sums), out});
    }
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    using Term = detail::CoRoutingBackward<B>;
    if (!idle(ctx))
      b.for_each(detail::pair_blocks,
                 detail::PairBackward<B, Term>{
                     detail::pair_rows(ctx, r.shape), {terms<B>(r.shape, sums), r.probs}, g.probs},
                 1);
  }
  /// The matrix M [E, E] of what was summed last; zeros if no pair counted.
  template <Backend B>
  void co_routing(B& b, ConstVector<B> sums, Matrix<B> out) const {
    b.for_each(out.rows * out.cols,
               detail::CoRoutingMatrix<B>{terms<B>({.experts = out.cols}, sums), out});
  }
  friend constexpr bool operator==(const PairwiseConsistency&,
                                   const PairwiseConsistency&) = default;

 private:
  template <class Context>
  bool idle(const Context& ctx) const {
    return ctx.pairs.rows == 0 || weight == 0 || (diagonal == 0 && off_diagonal == 0);
  }
  detail::CoRoutingSizes sizes(const RoutingShape& s) const {
    detail::CoRoutingSizes size{.experts = s.experts};
    if (form == ConsistencyDiagonal::position) {
      size.positions = positions > 0 ? positions : tokens_per_image;
      size.tokens_per_image = tokens_per_image;
    }
    return size;
  }
  template <Backend B>
  detail::CoRouting<typename B::Scalar> terms(const RoutingShape& s, ConstVector<B> sums) const {
    using T = typename B::Scalar;
    return {sizes(s), static_cast<T>(weight * diagonal), static_cast<T>(weight * off_diagonal),
            sums.data};
  }
};

}  // namespace moxie
