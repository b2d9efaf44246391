#pragma once

#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// What a dual model mixes: scores, their softmax, or the logarithm of that mixture. Losses and
/// most attacks want scores: of a mixture of probabilities they get the logarithm.
enum class DualSpace { logit, probability, log_probability };

namespace detail {
/// A row of scores with what its softmax needs.
template <class T>
struct ScoreRow {
  const T* z;
  T peak, log_sum;

  MOXIE_HD MOXIE_INLINE ScoreRow(const T* scores, Index n) : z(scores) {
    const T top = strip_maximum<T>(n, [=](Index j) { return scores[j]; });
    peak = top;
    log_sum = math::log(strip_sum<T>(n, [=](Index j) { return math::exp(scores[j] - top); }));
  }
  MOXIE_HD MOXIE_INLINE T log_probability(Index j) const { return z[j] - peak - log_sum; }
  MOXIE_HD MOXIE_INLINE T probability(Index j) const { return math::exp(log_probability(j)); }
};

/// log((1 - alpha) p + alpha q), from the logarithms of p and q.
template <class T>
MOXIE_HD MOXIE_INLINE T log_mixture(T alpha, T log_p, T log_q) {
  if (!(alpha < T(1))) return log_q;
  if (!(alpha > T(0))) return log_p;
  const T a = math::log(T(1) - alpha) + log_p;
  const T b = math::log(alpha) + log_q;
  const T more = a < b ? b : a;
  const T less = a < b ? a : b;
  return more + math::log(T(1) + math::exp(less - more));
}

template <Backend B>
struct MixRow {
  DualSpace space;
  typename B::Scalar alpha;
  ConstMatrix<B> standard, robust;
  Matrix<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index n = out.cols;
    const T a = alpha;
    T* y = out.row(r);
    if (space == DualSpace::logit) {
      const T* s = standard.row(r);
      const T* o = robust.row(r);
      row_map(n, y, [=](Index j) { return (T(1) - a) * s[j] + a * o[j]; });
      return;
    }
    const ScoreRow<T> s(standard.row(r), n);
    const ScoreRow<T> o(robust.row(r), n);
    if (space == DualSpace::probability) {
      row_map(n, y, [=](Index j) { return (T(1) - a) * s.probability(j) + a * o.probability(j); });
    } else {
      row_map(n, y,
              [=](Index j) { return log_mixture(a, s.log_probability(j), o.log_probability(j)); });
    }
  }
};

template <Backend B>
struct MixRowBackward {
  DualSpace space;
  typename B::Scalar alpha;
  ConstMatrix<B> standard, robust, dy;
  Matrix<B> d_standard, d_robust;

  using T = typename B::Scalar;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const Index n = dy.cols;
    const T a = alpha;
    const T* d = dy.row(r);
    if (space == DualSpace::logit) {
      row_map(n, d_standard.row(r), [=](Index j) { return (T(1) - a) * d[j]; });
      row_map(n, d_robust.row(r), [=](Index j) { return a * d[j]; });
      return;
    }
    const ScoreRow<T> s(standard.row(r), n);
    const ScoreRow<T> o(robust.row(r), n);
    part(n, T(1) - a, s, s, o, d, d_standard.row(r));
    part(n, a, o, s, o, d, d_robust.row(r));
  }

 private:
  /// u_j = dy_j times what this part has of the mixture (of its logarithm: its share); dz_j = u_j -
  /// p_j sum of u.
  MOXIE_HD MOXIE_INLINE void part(Index n, T weight, const ScoreRow<T>& own, const ScoreRow<T>& s,
                                  const ScoreRow<T>& o, const T* d, T* dz) const {
    const bool log = space == DualSpace::log_probability;
    const T a = alpha;
    const auto u = [=](Index j) {
      T share = weight * own.probability(j);
      if (log)
        share = weight > T(0)
                    ? weight * math::exp(own.log_probability(j) -
                                         log_mixture(a, s.log_probability(j), o.log_probability(j)))
                    : T(0);
      return share * d[j];
    };
    const T sum = strip_sum<T>(n, u);
    row_map(n, dz, [=](Index j) { return u(j) - own.probability(j) * sum; });
  }
};
}  // namespace detail

/// out = the mixture of the scores of a standard and a robust model, alpha the robust one's weight.
/// [R, C] each; out may be neither.   Cost: O(R C); no scratch.
struct MixScores {
  template <Backend B>
  void operator()(B& b, DualSpace space, double alpha, ConstMatrix<B> standard,
                  ConstMatrix<B> robust, Matrix<B> out) const {
    detail::run_or_generic(*this, b, space, alpha, standard, robust, out);
  }
  template <Backend B>
  static void generic(B& b, DualSpace space, double alpha, ConstMatrix<B> standard,
                      ConstMatrix<B> robust, Matrix<B> out) {
    b.for_each(out.rows, detail::MixRow<B>{space, static_cast<typename B::Scalar>(alpha), standard,
                                           robust, out});
  }
};
inline constexpr MixScores mix_scores{};

/// Gradients of MixScores, overwritten. dy may be neither of them.
struct MixScoresBackward {
  template <Backend B>
  void operator()(B& b, DualSpace space, double alpha, ConstMatrix<B> standard,
                  ConstMatrix<B> robust, ConstMatrix<B> dy, Matrix<B> d_standard,
                  Matrix<B> d_robust) const {
    detail::run_or_generic(*this, b, space, alpha, standard, robust, dy, d_standard, d_robust);
  }
  template <Backend B>
  static void generic(B& b, DualSpace space, double alpha, ConstMatrix<B> standard,
                      ConstMatrix<B> robust, ConstMatrix<B> dy, Matrix<B> d_standard,
                      Matrix<B> d_robust) {
    b.for_each(dy.rows, detail::MixRowBackward<B>{space, static_cast<typename B::Scalar>(alpha),
                                                  standard, robust, dy, d_standard, d_robust});
  }
};
inline constexpr MixScoresBackward mix_scores_backward{};

}  // namespace moxie
