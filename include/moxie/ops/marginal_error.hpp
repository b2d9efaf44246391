#pragma once

#include "moxie/core/math.hpp"
#include "moxie/core/strip.hpp"
#include "moxie/ops/accelerate.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct PlannedLoad {
  static constexpr bool one_level = true;
  ConstMatrix<B> plan;
  Index group;
  Matrix<B> load;  // [G, E]

  MOXIE_HD void operator()(Index g, Index e) const {
    typename B::Scalar sum = 0;
    for (Index t = g * group; t < (g + 1) * group; ++t) sum += plan(t, e);
    load(g, e) = sum;
  }
};
template <Backend B>
struct TokenGap {
  ConstMatrix<B> plan;
  ConstIntVector<B> mask;
  Vector<B> gap;

  MOXIE_HD MOXIE_INLINE void operator()(Index t) const {
    using T = typename B::Scalar;
    gap[t] = 0;
    if (mask && mask[t] == 0) return;
    const T* row = plan.row(t);
    gap[t] = math::abs(strip_sum<T>(plan.cols, [=](Index e) { return row[e]; }) - T(1));
  }
};
template <Backend B>
struct WorstMarginal {
  static constexpr bool one_level = true;
  ConstIntVector<B> mask;
  Index group;
  ConstMatrix<B> load;
  ConstVector<B> gap;
  Vector<B> error;

  MOXIE_HD void operator()(Index g) const {
    using T = typename B::Scalar;
    Index count = group;
    if (mask) {
      count = 0;
      for (Index t = g * group; t < (g + 1) * group; ++t) count += mask[t] != 0 ? 1 : 0;
    }
    error[g] = 0;
    if (count == 0) return;
    const T share = static_cast<T>(count) / static_cast<T>(load.cols);
    for (Index e = 0; e < load.cols; ++e)
      error[g] = math::maximum(error[g], math::abs(load(g, e) - share) / share);
    for (Index t = g * group; t < (g + 1) * group; ++t) error[g] = math::maximum(error[g], gap[t]);
  }
};
}  // namespace detail

/// How far a transport plan is from its marginals: error[g] = the largest of |sum over the group's tokens of plan_se - b|
/// / b over experts e, b = unmasked tokens / E, and of |sum over experts of plan_se - 1| over unmasked tokens s; 0 for a
/// group without tokens. One of the two is rounding where a plan keeps that marginal exactly: of Sinkhorn's and of sparse
/// token choice's it is the tokens', so the error is that of balanced loads; of sparse expert choice's the experts'.
///
/// plan: [T, E], rows of masked tokens 0; mask: [T] or empty; load: [G, E], left with the column sums; gap: [T], left
/// with the tokens' errors, 0 for masked ones; error: [G]. Does not block.
struct MarginalError {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> plan, ConstIntVector<B> mask, Index group, Matrix<B> load,
                  Vector<B> gap, Vector<B> error) const {
    detail::run_or_generic(*this, b, plan, mask, group, load, gap, error);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> plan, ConstIntVector<B> mask, Index group,
                      Matrix<B> load, Vector<B> gap, Vector<B> error) {
    b.for_each(error.size, plan.cols, detail::PlannedLoad<B>{plan, group, load});
    b.for_each(gap.size, detail::TokenGap<B>{plan, mask, gap});
    b.for_each(error.size, detail::WorstMarginal<B>{mask, group, load, gap, error});
  }
};
inline constexpr MarginalError marginal_error{};

}  // namespace moxie
