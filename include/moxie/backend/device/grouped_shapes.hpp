#pragma once

#include "moxie/core/error.hpp"
#include "moxie/core/rows.hpp"
#include "moxie/core/view.hpp"

namespace moxie::detail::device {

/// Whether the rows of the experts are matrices of one shape, at regular distances in memory.
template <class B>
bool even(const Rows<B>& rows) {
  return rows.each > 0 && rows.experts() > 0 && !rows.index && !rows.scale;
}

/// @throws shape_error unless the arguments are those of Backend::grouped_gemm
template <class B>
void require_grouped(const Rows<B>& rows, Op op, const ConstMatrix<B>& w,
                     const ConstMatrix<B>& out) {
  const Index experts = rows.experts();
  const Index inner = rows.x.cols;
  if (w.cols != (op == Op::none ? out.cols : inner) ||
      w.rows != experts * (op == Op::none ? inner : out.cols)) {
    throw_shape("moxie::DeviceBackend::grouped_gemm: rows are ", inner, " wide, out ", out.cols,
                ", and w is [", w.rows, " x ", w.cols, "] for ", experts, " experts, op ",
                op == Op::none ? "none" : "transpose");
  }
  if (out.rows < rows.rows) {
    throw_shape("moxie::DeviceBackend::grouped_gemm: out has ", out.rows,
                " rows, expected at least ", rows.rows, " (rows.rows)");
  }
  if (rows.each * experts > rows.rows) {
    throw_shape("moxie::DeviceBackend::grouped_gemm: ", rows.each, " rows of each of ", experts,
                " experts, expected at most ", rows.rows, " together (rows.rows)");
  }
}

/// @throws shape_error unless the arguments are those of Backend::grouped_gemm_weights
template <class B>
void require_grouped_weights(const Rows<B>& rows, const Rows<B>& dy, const ConstMatrix<B>& dw) {
  const Index experts = rows.experts();
  if (dy.experts() != experts || dw.rows != experts * rows.x.cols || dw.cols != dy.x.cols) {
    throw_shape("moxie::DeviceBackend::grouped_gemm_weights: rows are ", rows.x.cols, " wide for ",
                experts, " experts, dy ", dy.x.cols, " wide for ", dy.experts(), ", and dw is [",
                dw.rows, " x ", dw.cols, "]");
  }
}

}  // namespace moxie::detail::device
