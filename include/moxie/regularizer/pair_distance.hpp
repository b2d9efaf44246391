#pragma once

#include "moxie/regularizer/concept.hpp"
#include "moxie/regularizer/pair_rows.hpp"

/// What the mean distances of pairs share: weight * mean over the pairs (a, b) that count of
/// distance(p_a, p_b), which is symmetric. Sums: distances in parts, then the number of pairs.
namespace moxie::detail {

inline constexpr Index distance_parts = 64;

template <Backend B, class Distance>
struct PairDistanceSum {
  static constexpr bool one_level = true;
  PairRows<B> rows;
  ConstMatrix<B> probs;
  Distance distance;
  Vector<B> sums;

  MOXIE_HD void operator()(Index part) const {
    using T = typename B::Scalar;
    const bool counting = part == distance_parts;
    T sum = 0;
    for (Index pair = counting ? 0 : part; pair < rows.pairs.rows;
         pair += counting ? 1 : distance_parts)
      if (rows.counts(pair))
        sum += counting
                   ? T(1)
                   : distance.value(probs.row(rows.a(pair)), probs.row(rows.b(pair)), probs.cols);
    sums[part] = sum;
  }
};
template <Backend B>
struct PairDistanceLoss {
  static constexpr bool one_level = true;
  ConstVector<B> sums;
  double weight;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const {
    using T = typename B::Scalar;
    T total = 0;
    for (Index i = 0; i < distance_parts; ++i) total += sums[i];
    const T pairs = sums[distance_parts];
    out[0] = pairs > 0 ? static_cast<T>(weight) * total / pairs : T(0);
  }
};
template <Backend B, class Distance>
struct PairDistanceBackward {  // the Term of PairBackward
  static constexpr bool one_level = true;
  using T = typename B::Scalar;
  ConstVector<B> sums;
  ConstMatrix<B> probs;
  Distance distance;
  double weight;

  MOXIE_HD void add_a(Index a, Index b, T* d) const { add(probs.row(a), probs.row(b), d); }
  MOXIE_HD void add_b(Index a, Index b, T* d) const { add(probs.row(b), probs.row(a), d); }

 private:
  MOXIE_HD void add(const T* own, const T* other, T* d) const {
    distance.add_slope(own, other, probs.cols, static_cast<T>(weight) / sums[distance_parts], d);
  }
};

/// The parts of a Regularizer whose loss is a mean distance.
template <class Distance>
struct PairDistance {
  Distance distance{};
  double weight = 0;

  Index sums() const noexcept { return distance_parts + 1; }
  template <Backend B, class Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    if (idle(ctx)) {
      b.fill(sums, typename B::Scalar(0));
    } else {
      b.for_each(sums.size,
                 PairDistanceSum<B, Distance>{pair_rows(ctx, r.shape), r.probs, distance, sums}, 1);
    }
  }
  template <Backend B>
  void loss(B& b, const Context<B>& ctx, ConstVector<B> sums, Vector<B> out) const {
    if (idle(ctx)) {
      b.fill(out, typename B::Scalar(0));
    } else {
      b.for_each(1, PairDistanceLoss<B>{sums, weight, out});
    }
  }
  template <Backend B, class Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    using Term = PairDistanceBackward<B, Distance>;
    if (!idle(ctx))
      b.for_each(pair_blocks,
                 PairBackward<B, Term>{
                     pair_rows(ctx, r.shape), {sums, r.probs, distance, weight}, g.probs},
                 1);
  }

 private:
  template <class Context>
  bool idle(const Context& ctx) const {
    return ctx.pairs.rows == 0 || weight == 0;
  }
};

}  // namespace moxie::detail

namespace moxie {

/// A Regularizer: weight * mean over the pairs of `Pass::pairs` of the distance of what their tokens
/// give to the experts, p the clean probabilities; 0 without pairs. Nothing in it asks for balance.
/// Distance: `name`, and value and slope as EuclideanDistance has them.
template <class Distance>
struct PairwiseDistance {
  double weight = 0.01;

  static constexpr std::string_view name = Distance::name;
  static constexpr bool per_group = false;

  Index sums(const RoutingShape&) const noexcept { return form().sums(); }
  template <Backend B, HasProbabilities<B> Routing>
  void accumulate(B& b, const Context<B>& ctx, const Routing& r, Vector<B> sums) const {
    form().accumulate(b, ctx, r, sums);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss(B& b, const Context<B>& ctx, const Routing&, ConstVector<B> sums, Vector<B> out) const {
    form().loss(b, ctx, sums, out);
  }
  template <Backend B, HasProbabilities<B> Routing>
  void loss_backward(B& b, const Context<B>& ctx, const Routing& r, ConstVector<B> sums,
                     RoutingGradients<Routing>& g) const {
    form().loss_backward(b, ctx, r, sums, g);
  }
  friend constexpr bool operator==(const PairwiseDistance&, const PairwiseDistance&) = default;

 private:
  detail::PairDistance<Distance> form() const { return {.distance = {}, .weight = weight}; }
};

}  // namespace moxie
