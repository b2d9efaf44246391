#pragma once

#include "moxie/core/eigen.hpp"
#include "moxie/core/rows.hpp"

/// The same products by Eigen (CpuOptions::product): a second opinion, and the door to a BLAS that Eigen was
/// built with. They may allocate, and a row's bits depend on the batch around it.
namespace moxie::detail {

/// Rows of one task: fixed, so that results do not depend on the number of threads.
inline constexpr Index eigen_rows = 256;

/// c = alpha op(a) op(b) + beta c. One expression for all cases, with transposed factors copied first: every
/// user of the header compiles what stands here.
template <class T>
void eigen_product(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
                   MatrixView<T> c) {
  EigenMatrix<T> left, right;
  if (op_a != Op::none) {
    left = as_eigen(a).transpose();
    a = as_view(left);
  }
  if (op_b != Op::none) {
    right = as_eigen(b).transpose();
    b = as_view(right);
  }
  auto out = as_eigen(c);
  if (beta == T(0)) out.setZero();
  if (beta != T(0) && beta != T(1)) out *= beta;
  out.noalias() += alpha * as_eigen(a) * as_eigen(b);
}

/// Rows [first, first + n), gathered and scaled.
template <class B, class T = typename B::Scalar>
EigenMatrix<T> eigen_rows_of(const Rows<B>& rows, Index first, Index n) {
  EigenMatrix<T> x(n, rows.x.cols);
  for (Index r = 0; r < n; ++r) {
    const VectorView<const T> from(rows.x.row(rows.source(first + r)), rows.x.cols);
    x.row(r) = rows.factor(first + r) * as_eigen(from).transpose();
  }
  return x;
}

}  // namespace moxie::detail
