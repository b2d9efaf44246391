#pragma once

#include "moxie/core/eigen.hpp"
#include "moxie/core/rows.hpp"

/// The same products by Eigen (CpuOptions::product): a second opinion, and the door to a BLAS that Eigen was
/// built with. They may allocate, and a row's bits depend on the batch around it.
namespace moxie::detail {

/// Rows of one task: fixed, so that results do not depend on the number of threads.
inline constexpr Index eigen_rows = 256;

template <class Out, class A, class B, class T>
void eigen_assign(Out&& out, const A& a, const B& b, T alpha, T beta) {
  if (beta == T(0)) {
    out.noalias() = alpha * (a * b);
    return;
  }
  if (beta != T(1)) out *= beta;
  out.noalias() += alpha * (a * b);
}

template <class T>
void eigen_product(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b, T beta,
                   MatrixView<T> c) {
  auto out = as_eigen(c);
  const auto left = as_eigen(a);
  const auto right = as_eigen(b);
  if (op_a == Op::none && op_b == Op::none) eigen_assign(out, left, right, alpha, beta);
  if (op_a == Op::none && op_b != Op::none) eigen_assign(out, left, right.transpose(), alpha, beta);
  if (op_a != Op::none && op_b == Op::none) eigen_assign(out, left.transpose(), right, alpha, beta);
  if (op_a != Op::none && op_b != Op::none) {
    eigen_assign(out, left.transpose(), right.transpose(), alpha, beta);
  }
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
