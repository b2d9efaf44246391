#pragma once

#include <cstdint>

#include "moxie/ops/accelerate.hpp"

namespace moxie {

namespace detail {
template <class T>
MOXIE_HD MOXIE_INLINE Index argmax(const T* values, Index n) {
  Index best = 0;
  for (Index j = 1; j < n; ++j)
    if (values[j] > values[best]) best = j;
  return best;
}

/// Whether argmax is `own`, and every value a number.
template <class T>
MOXIE_HD MOXIE_INLINE bool is_largest(const T* values, Index n, Index own) {
  const T most = values[own];
  for (Index j = 0; j < n; ++j)
    if (!(j < own ? values[j] < most : values[j] <= most)) return false;
  return true;
}

template <Backend B>
struct ArgmaxRow {
  static constexpr bool one_level = true;
  ConstMatrix<B> x;
  IntVector<B> out;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    out[r] = static_cast<std::int32_t>(argmax(x.row(r), x.cols));
  }
};

template <Backend B>
struct CorrectRow {
  static constexpr bool one_level = true;
  ConstMatrix<B> scores, labels;
  Vector<B> hits;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index own = argmax(labels.row(r), labels.cols);
    hits[r] = is_largest(scores.row(r), scores.cols, own) ? T(1) : T(0);
  }
};
}  // namespace detail

/// out[r] = the column of the largest element of x[r, :]; a tie goes to the lower column. x: [R,
/// C], out: [R].
struct ArgmaxRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> x, IntVector<B> out) const {
    detail::run_or_generic(*this, b, x, out);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> x, IntVector<B> out) {
    b.for_each(x.rows, detail::ArgmaxRow<B>{x, out});
  }
};
inline constexpr ArgmaxRows argmax_rows{};

/// hits[r] = 1 where the largest score and the largest label are in the same column (ties to the
/// lower one), else 0, also where a score is NaN; their sum is the number of correct answers.
/// scores, labels: [R, C], hits: [R].
struct CorrectRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> scores, ConstMatrix<B> labels, Vector<B> hits) const {
    detail::run_or_generic(*this, b, scores, labels, hits);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> scores, ConstMatrix<B> labels, Vector<B> hits) {
    b.for_each(scores.rows, detail::CorrectRow<B>{scores, labels, hits});
  }
};
inline constexpr CorrectRows correct_rows{};

}  // namespace moxie
