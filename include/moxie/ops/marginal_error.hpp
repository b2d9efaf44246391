#pragma once

#include "moxie/core/math.hpp"
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
struct WorstLoad {
  static constexpr bool one_level = true;
  ConstIntVector<B> mask;
  Index group;
  ConstMatrix<B> load;
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
  }
};
}  // namespace detail

/// error[g] = max over experts of |sum over the group's tokens of plan_se - b| / b, b = unmasked tokens / E: how far a
/// transport plan is from balanced loads; 0 for a group without tokens.
///
/// plan: [T, E], rows of masked tokens 0; mask: [T] or empty; load: [G, E], left with the column sums; error: [G].
/// Does not block.
struct MarginalError {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> plan, ConstIntVector<B> mask, Index group, Matrix<B> load,
                  Vector<B> error) const {
    detail::run_or_generic(*this, b, plan, mask, group, load, error);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> plan, ConstIntVector<B> mask, Index group,
                      Matrix<B> load, Vector<B> error) {
    b.for_each(error.size, plan.cols, detail::PlannedLoad<B>{plan, group, load});
    b.for_each(error.size, detail::WorstLoad<B>{mask, group, load, error});
  }
};
inline constexpr MarginalError marginal_error{};

}  // namespace moxie
