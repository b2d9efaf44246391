#pragma once

#include "moxie/core/error.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/argmax.hpp"
#include "moxie/ops/rank.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// What attacks maximise, of the scores z of one image of class y; z_(r) is the r-th largest score.
enum class AttackLoss {
  cross_entropy,           ///< -log softmax(z)[y]
  targeted_cross_entropy,  ///< log softmax(z)[t]
  margin,                  ///< max over j != y of z_j, less z_y: above 0 where the class is wrong
  target_margin,           ///< z_t - z_y
  dlr,                     ///< -(z_y - max over j != y of z_j) / (z_(1) - z_(3) + 1e-12)
  targeted_dlr             ///< -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)
};
MOXIE_HD constexpr bool is_targeted(AttackLoss loss) {
  return loss == AttackLoss::targeted_cross_entropy || loss == AttackLoss::target_margin ||
         loss == AttackLoss::targeted_dlr;
}
/// The fewest classes for which it is defined.
constexpr Index least_classes(AttackLoss loss) {
  if (loss == AttackLoss::targeted_dlr) return 4;
  return loss == AttackLoss::dlr ? 3 : 2;
}

namespace detail {
template <Backend B>
struct AttackLossRow {
  static constexpr bool one_level = true;
  AttackLoss kind;
  ConstMatrix<B> scores;        // [n, C]
  ConstIntVector<B> image;      // [n]
  ConstIntVector<B> y, target;  // by image
  Vector<B> losses;             // [n]
  Matrix<B> d_scores;           // [n, C] or empty
  IntVector<B> fooled;          // [n] or empty

  using T = typename B::Scalar;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    const T* z = scores.row(r);
    const Index n = scores.cols;
    const Index own = y[image[r]];
    T* d = d_scores ? d_scores.row(r) : nullptr;
    for (Index j = 0; j < n; ++j)
      if (math::is_nan(z[j])) return no_numbers(r, z[j], d);
    const Index best = argmax(z, n);
    if (fooled) fooled[r] = best == own ? 0 : 1;
    switch (kind) {
      case AttackLoss::cross_entropy:
        losses[r] = cross_entropy(z, n, own, T(1), d);
        return;
      case AttackLoss::targeted_cross_entropy:
        losses[r] = cross_entropy(z, n, target[image[r]], T(-1), d);
        return;
      default:
        break;
    }
    const Index second = next_in_rank(n, best, [=](Index j) { return z[j]; });
    const Index rival = is_targeted(kind) ? Index{target[image[r]]} : (best == own ? second : best);
    const T gap = z[rival] - z[own];
    if (d != nullptr)
      for (Index j = 0; j < n; ++j) d[j] = 0;
    if (kind == AttackLoss::margin || kind == AttackLoss::target_margin) {
      losses[r] = gap;
      if (d != nullptr) {
        d[rival] += T(1);
        d[own] -= T(1);
      }
      return;
    }
    const Index third = next_in_rank(n, second, [=](Index j) { return z[j]; });
    const Index fourth = kind == AttackLoss::targeted_dlr
                             ? next_in_rank(n, third, [=](Index j) { return z[j]; })
                             : third;
    const T width = z[best] - T(0.5) * (z[third] + z[fourth]) + T(1e-12);
    losses[r] = gap / width;
    if (d == nullptr) return;
    const T slope = gap / (width * width);
    d[rival] += T(1) / width;
    d[own] -= T(1) / width;
    d[best] -= slope;
    d[third] += T(0.5) * slope;
    d[fourth] += T(0.5) * slope;
  }

 private:
  /// Such scores have no ranks.
  MOXIE_HD void no_numbers(Index r, T nan, T* d) const {
    if (fooled) fooled[r] = 1;
    losses[r] = nan;
    if (d != nullptr)
      for (Index j = 0; j < scores.cols; ++j) d[j] = 0;
  }
  MOXIE_HD MOXIE_INLINE static T cross_entropy(const T* z, Index n, Index c, T factor, T* d) {
    const T peak = strip_maximum<T>(n, [=](Index j) { return z[j]; });
    const T sum = strip_sum<T>(n, [=](Index j) { return math::exp(z[j] - peak); });
    if (d != nullptr) {
      const T scale = factor / sum;
      row_map(n, d, [=](Index j) { return scale * math::exp(z[j] - peak); });
      d[c] -= factor;
    }
    return factor * (math::log(sum) - (z[c] - peak));
  }
};
}  // namespace detail

/// losses[r], their gradients d_scores[r, :] (of each image's own loss, not of a mean) and
/// fooled[r] = 1 where the largest score is not that of the class, for rows r that stand for
/// image[r] of a batch with classes y and targets. scores, d_scores: [n, C]; losses, fooled, image:
/// [n]. d_scores and fooled may be empty; all are overwritten. Ties go to the lower class. A row
/// with a NaN is fooled, its loss NaN and its gradient 0.   Cost: O(n C); no scratch.
/// Errors: config_error for fewer classes than the loss needs, shape_error if it needs targets and
/// there are none.
/// Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
/// diverse parameter-free attacks", 2020, eq. 6 and 8.
struct AttackLosses {
  template <Backend B>
  void operator()(B& b, AttackLoss kind, ConstMatrix<B> scores, ConstIntVector<B> image,
                  ConstIntVector<B> y, ConstIntVector<B> target, Vector<B> losses,
                  Matrix<B> d_scores, IntVector<B> fooled) const {
    if (scores.cols < least_classes(kind))
      throw_config("moxie::attack_losses: there are ", scores.cols, " classes, this loss needs ",
                   least_classes(kind));
    if (is_targeted(kind) && scores.rows > 0 && !target)
      throw_shape("moxie::attack_losses: target is empty, expected one class an image");
    detail::run_or_generic(*this, b, kind, scores, image, y, target, losses, d_scores, fooled);
  }
  template <Backend B>
  static void generic(B& b, AttackLoss kind, ConstMatrix<B> scores, ConstIntVector<B> image,
                      ConstIntVector<B> y, ConstIntVector<B> target, Vector<B> losses,
                      Matrix<B> d_scores, IntVector<B> fooled) {
    b.for_each(scores.rows,
               detail::AttackLossRow<B>{kind, scores, image, y, target, losses, d_scores, fooled});
  }
};
inline constexpr AttackLosses attack_losses{};

}  // namespace moxie
