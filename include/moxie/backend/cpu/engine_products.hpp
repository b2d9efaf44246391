#pragma once

#include <cstddef>
#include <vector>

#include "moxie/backend/cpu/options.hpp"
#include "moxie/core/rows.hpp"

/// What an engine that knows plain products alone (CpuOptions::product) needs to multiply rows of experts.
namespace moxie::detail {

/// Rows of one task: fixed, so that results do not depend on the number of threads.
inline constexpr Index engine_rows = 256;

/// Rows [first, first + n), gathered and scaled.
template <class T>
class GatheredRows {
 public:
  template <class B>
  GatheredRows(const Rows<B>& rows, Index first, Index n)
      : data_(static_cast<std::size_t>(n * rows.x.cols)), view_(data_.data(), n, rows.x.cols) {
    for (Index r = 0; r < n; ++r) {
      const T* const from = rows.x.row(rows.source(first + r));
      const T factor = rows.factor(first + r);
      for (Index c = 0; c < rows.x.cols; ++c) view_(r, c) = factor * from[c];
    }
  }
  MatrixView<const T> view() const { return view_; }

 private:
  std::vector<T> data_;
  MatrixView<T> view_;
};

/// out[r, :] = rows(r, :) op(w_e) for the rows of expert e.
template <class T, class B>
void engine_rows_of(const ProductEngine& engine, const Rows<B>& rows, Index e, Op op,
                    MatrixView<const T> w, MatrixView<T> out) {
  for (Index r = rows.offset[e]; r < rows.offset[e + 1]; r += engine_rows) {
    const Index left = rows.offset[e + 1] - r;
    const GatheredRows<T> x(rows, r, left < engine_rows ? left : engine_rows);
    engine.gemm(Op::none, op, T(1), x.view(), w, T(0), out.middle(r, x.view().rows));
  }
}

/// dw += sum over the rows r of expert e of rows(r, :)^T dy(r, :).
template <class T, class B>
void engine_weights_of(const ProductEngine& engine, const Rows<B>& rows, const Rows<B>& dy, Index e,
                       MatrixView<T> dw) {
  for (Index r = rows.offset[e]; r < rows.offset[e + 1]; r += engine_rows) {
    const Index left = rows.offset[e + 1] - r;
    const Index n = left < engine_rows ? left : engine_rows;
    const GatheredRows<T> x(rows, r, n), g(dy, r, n);
    engine.gemm(Op::transpose, Op::none, T(1), x.view(), g.view(), T(1), dw);
  }
}

}  // namespace moxie::detail
