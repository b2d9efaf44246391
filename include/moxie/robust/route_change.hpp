#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/routing/pass.hpp"

namespace moxie {

namespace detail {
template <Backend B>
struct RouteChangeRow {
  static constexpr bool one_level = true;
  ConstIntMatrix<B> before, after;
  ConstMatrix<B> weight_before, weight_after;
  Matrix<B> out;

  MOXIE_HD void operator()(Index t) const {
    using T = typename B::Scalar;
    Index common = 0, of_before = 0, of_after = 0;
    bool same = chosen(before, t) == chosen(after, t);
    for (Index k = 0; k < before.cols; ++k) {
      of_before += weighs(before, weight_before, t, k) ? 1 : 0;
      const Index e = routed_expert(before(t, k));
      bool found = e < 0;
      for (Index j = 0; j < after.cols; ++j) {
        if (e < 0 || routed_expert(after(t, j)) != e) continue;
        found = true;
        common += weighs(before, weight_before, t, k) && weighs(after, weight_after, t, j) ? 1 : 0;
      }
      same = same && found;
    }
    for (Index j = 0; j < after.cols; ++j) of_after += weighs(after, weight_after, t, j) ? 1 : 0;
    const Index either = of_before + of_after - common;
    const bool first = before.cols > 0 && after.cols > 0 &&
                       routed_expert(before(t, 0)) == routed_expert(after(t, 0));
    out(t, 0) = first ? T(0) : T(1);
    out(t, 1) = same ? T(0) : T(1);
    out(t, 2) = either > 0 ? static_cast<T>(common) / static_cast<T>(either) : T(0);
  }

 private:
  MOXIE_HD static bool weighs(ConstIntMatrix<B> choice, ConstMatrix<B> weight, Index t, Index k) {
    return choice(t, k) >= 0 && weight(t, k) > 0;
  }
  MOXIE_HD static Index chosen(ConstIntMatrix<B> choice, Index t) {
    Index n = 0;
    for (Index k = 0; k < choice.cols; ++k) n += routed_expert(choice(t, k)) >= 0 ? 1 : 0;
    return n;
  }
};
}  // namespace detail

/// How the routes of tokens differ from what they were, in one MoE layer. choice, weight: [T, K],
/// entries as those of Routes, K may differ. out: [T, 3], of each token
///   0: 1 if the first expert is another, else 0
///   1: 1 if the set of chosen experts is another, dropped ones included, else 0
///   2: intersection over union of the experts that took it with a weight above 0; 0 if none did in
///      either (V-MoE's definition: the mean of 1 - iou is its routing change).
struct RouteChange {
  template <Backend B>
  void operator()(B& b, ConstIntMatrix<B> before, ConstMatrix<B> weight_before,
                  ConstIntMatrix<B> after, ConstMatrix<B> weight_after, Matrix<B> out) const {
    detail::run_or_generic(*this, b, before, weight_before, after, weight_after, out);
  }
  template <Backend B>
  static void generic(B& b, ConstIntMatrix<B> before, ConstMatrix<B> weight_before,
                      ConstIntMatrix<B> after, ConstMatrix<B> weight_after, Matrix<B> out) {
    b.for_each(out.rows,
               detail::RouteChangeRow<B>{before, after, weight_before, weight_after, out});
  }
};
inline constexpr RouteChange route_change{};

}  // namespace moxie
