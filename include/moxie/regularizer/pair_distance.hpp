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
