#pragma once

#include "moxie/backend/cpu/options.hpp"
#include "moxie/core/eigen.hpp"

namespace moxie {

/// The products by Eigen: a second opinion, and the door to a BLAS that Eigen was built with. Compiled for the
/// instruction set of the file that includes this.
///
///   CpuBackend<float> cpu({.product = &eigen_products});
class EigenProducts final : public ProductEngine {
 public:
  void gemm(Op op_a, Op op_b, float alpha, MatrixView<const float> a, MatrixView<const float> b,
            float beta, MatrixView<float> c) const override {
    multiply(op_a, op_b, alpha, a, b, beta, c);
  }
  void gemm(Op op_a, Op op_b, double alpha, MatrixView<const double> a, MatrixView<const double> b,
            double beta, MatrixView<double> c) const override {
    multiply(op_a, op_b, alpha, a, b, beta, c);
  }

 private:
  /// One expression for all cases, with transposed factors copied first: every user of the header compiles what
  /// stands here.
  template <class T>
  static void multiply(Op op_a, Op op_b, T alpha, MatrixView<const T> a, MatrixView<const T> b,
                       T beta, MatrixView<T> c) {
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
};

inline const EigenProducts eigen_products{};

}  // namespace moxie
