#pragma once

#include "moxie/ops/row_map.hpp"
#include "moxie/regularizer/pair_rows.hpp"

/// The co-routing matrix of pairs, what PairwiseConsistency takes of it, and its gradient.
namespace moxie::detail {

/// The matrix is summed in so many parts, which depends on E alone: few where it is large.
MOXIE_HD constexpr Index co_routing_parts(Index experts) {
  const Index parts = 512 / experts;
  return parts > 64 ? 64 : parts < 1 ? 1 : parts;
}

/// Where the numbers of PairwiseConsistency lie in its sums: the matrix [E, E], the number of pairs,
/// the vectors of positions [X, E], then room for the parts of the matrix and of that number.
struct CoRoutingSizes {
  Index experts = 1;
  Index positions = 0;         // X; 0: the diagonal of the matrix
  Index tokens_per_image = 1;  // the last X of them have a position

  MOXIE_HD Index matrix() const { return experts * experts; }
  MOXIE_HD Index sums() const { return matrix() + 1; }
  MOXIE_HD Index used() const { return sums() + positions * experts; }
  MOXIE_HD Index all() const { return used() + co_routing_parts(experts) * sums(); }
  /// Negative: none.
  MOXIE_HD Index position(Index token) const {
    return token % tokens_per_image - (tokens_per_image - positions);
  }
};

/// One row of one part of the matrix, or the number of pairs of a part.
template <Backend B>
struct CoRoutingPart {
  PairRows<B> rows;
  ConstMatrix<B> probs;
  Vector<B> room;

  MOXIE_HD MOXIE_INLINE void operator()(Index i) const {
    using T = typename B::Scalar;
    const Index experts = probs.cols;
    const Index parts = co_routing_parts(experts);
    const Index part = i / (experts + 1);
    const Index e = i % (experts + 1);
    T* out = room.data + part * (experts * experts + 1) + e * experts;
    const Index width = e < experts ? experts : 1;
    for (Index f = 0; f < width; ++f) out[f] = 0;
    for (Index pair = part; pair < rows.pairs.rows; pair += parts) {
      if (!rows.counts(pair)) continue;
      if (e == experts) {
        out[0] += 1;
        continue;
      }
      const T own = probs(rows.a(pair), e);
      const T* other = probs.row(rows.b(pair));
      row_map(experts, out, [=](Index f) { return out[f] + own * other[f]; });
    }
  }
};
template <Backend B>
struct CoRoutingSum {  // of the parts
  static constexpr bool one_level = true;
  ConstVector<B> room;
  Vector<B> out;

  MOXIE_HD void operator()(Index i) const {
    typename B::Scalar sum = 0;
    for (Index at = i; at < room.size; at += out.size) sum += room[at];
    out[i] = sum;
  }
};
/// The sum of one position over the images.
template <Backend B>
struct PositionSum {
  static constexpr bool one_level = true;
  PairRows<B> rows;
  ConstMatrix<B> probs;
  CoRoutingSizes sizes;
  Vector<B> out;

  MOXIE_HD void operator()(Index position) const {
    using T = typename B::Scalar;
    T* own = out.data + position * sizes.experts;
    for (Index e = 0; e < sizes.experts; ++e) own[e] = 0;
    for (Index pair = 0; pair < rows.pairs.rows; ++pair) {
      if (!rows.counts(pair) || sizes.position(rows.a(pair)) != position) continue;
      const T* a = probs.row(rows.a(pair));
      const T* b = probs.row(rows.b(pair));
      for (Index e = 0; e < sizes.experts; ++e) own[e] += a[e] * b[e];
    }
  }
};

/// What loss and gradient read of the sums.
template <class T>
struct CoRouting {
  CoRoutingSizes sizes;
  T diagonal, off_diagonal;  // their weights
  const T* sums;

  MOXIE_HD T pairs() const { return sums[sizes.matrix()]; }
  /// What a sum is multiplied by: E / N.
  MOXIE_HD T scale() const { return static_cast<T>(sizes.experts) / pairs(); }
  MOXIE_HD T at(Index e, Index f) const { return scale() * sums[e * sizes.experts + f]; }
  MOXIE_HD T at_position(Index x, Index e) const {
    return scale() * sums[sizes.sums() + x * sizes.experts + e];
  }
  /// Entries that the diagonal part is the mean of.
  MOXIE_HD T diagonal_entries() const {
    return static_cast<T>(sizes.experts * (sizes.positions > 0 ? sizes.positions : 1));
  }
  MOXIE_HD T off_diagonal_entries() const {
    return static_cast<T>(sizes.experts > 1 ? sizes.experts * (sizes.experts - 1) : 1);
  }
  MOXIE_HD T loss() const {
    if (!(pairs() > 0)) return 0;
    T on = 0;
    T off = 0;
    for (Index e = 0; e < sizes.experts; ++e)
      for (Index f = 0; f < sizes.experts; ++f) {
        if (e != f) {
          off += at(e, f) * at(e, f);
        } else if (sizes.positions == 0) {
          on += (at(e, e) - 1) * (at(e, e) - 1);
        }
      }
    for (Index x = 0; x < sizes.positions; ++x)
      for (Index e = 0; e < sizes.experts; ++e)
        on += (at_position(x, e) - 1) * (at_position(x, e) - 1);
    return diagonal * on / diagonal_entries() + off_diagonal * off / off_diagonal_entries();
  }
  /// d loss / d (the sum off the diagonal that a pair adds p_a[e] p_b[f] to), divided by that sum.
  MOXIE_HD T off_diagonal_slope() const {
    return 2 * off_diagonal * scale() * scale() / off_diagonal_entries();
  }
};

template <Backend B>
struct CoRoutingLoss {
  static constexpr bool one_level = true;
  CoRouting<typename B::Scalar> terms;
  Vector<B> out;

  MOXIE_HD void operator()(Index) const { out[0] = terms.loss(); }
};
template <Backend B>
struct CoRoutingMatrix {
  static constexpr bool one_level = true;
  CoRouting<typename B::Scalar> terms;
  Matrix<B> out;

  MOXIE_HD void operator()(Index i) const {
    out(i / out.cols, i % out.cols) = terms.pairs() > 0 ? terms.at(i / out.cols, i % out.cols) : 0;
  }
};
template <Backend B>
struct CoRoutingBackward {  // the Term of PairBackward; pairs() > 0, since the pair counts
  static constexpr bool one_level = false;
  using T = typename B::Scalar;
  CoRouting<T> terms;
  ConstMatrix<B> probs;

  MOXIE_HD MOXIE_INLINE void add_a(Index a, Index b, T* d) const {
    const T* other = probs.row(b);
    const T by = terms.off_diagonal_slope();
    const Index experts = terms.sizes.experts;
    for (Index e = 0; e < experts; ++e)
      d[e] += by * dot_but(e, experts, terms.sums + e * experts, other);
    add_diagonal(a, other, d);
  }
  MOXIE_HD MOXIE_INLINE void add_b(Index a, Index /*b*/, T* d) const {
    const T* other = probs.row(a);
    const T by = terms.off_diagonal_slope();
    const Index experts = terms.sizes.experts;
    for (Index e = 0; e < experts; ++e) {  // by rows of the matrix, which are contiguous
      const T* row = terms.sums + e * experts;
      const T own = by * other[e];
      row_map(experts, d, [=](Index f) { return d[f] + math::select(f == e, T(0), own * row[f]); });
    }
    add_diagonal(a, other, d);
  }

 private:
  /// Without entry e: the diagonal has another weight, and where it is nearly all, adding it to take it back would cancel.
  MOXIE_HD MOXIE_INLINE static T dot_but(Index e, Index n, const T* x, const T* y) {
    const auto term = [=](Index j) { return math::select(j == e, T(0), x[j] * y[j]); };
    if (n >= strip) return strip_sum<T>(n, term);
    T sum = 0;  // of few: partial sums would be more work than the products
    for (Index j = 0; j < n; ++j) sum += term(j);
    return sum;
  }
  /// The slope of the entries that the pair adds p_a[e] p_b[e] to.
  MOXIE_HD MOXIE_INLINE void add_diagonal(Index a, const T* other, T* d) const {
    const Index experts = terms.sizes.experts;
    const Index x = terms.sizes.position(a);
    const bool by_position = terms.sizes.positions > 0;
    if (by_position && x < 0) return;
    const T* entry = by_position ? terms.sums + terms.sizes.sums() + x * experts : terms.sums;
    const Index step = by_position ? 1 : experts + 1;
    const T scale = terms.scale();
    const T by = 2 * terms.diagonal * scale / terms.diagonal_entries();
    for (Index e = 0; e < experts; ++e) d[e] += by * (scale * entry[e * step] - 1) * other[e];
  }
};

}  // namespace moxie::detail
