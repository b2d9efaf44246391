#pragma once

#include "moxie/ops/accelerate.hpp"

namespace moxie {

/// c = op(a) op(w) + beta c, a product of a layer of a network.
///
/// Besides the products of experts the one product whose factors a backend may round, where it was told to
/// (CudaOptions::tf32). Gates, routers and losses call Backend::gemm, which takes numbers as they are: a rounded
/// logit would change routes.
struct LayerProduct {
  template <Backend B>
  void operator()(B& b, Op op_a, Op op_w, ConstMatrix<B> a, ConstMatrix<B> w,
                  typename B::Scalar beta, Matrix<B> c) const {
    detail::run_or_generic(*this, b, op_a, op_w, a, w, beta, c);
  }
  template <Backend B>
  static void generic(B& b, Op op_a, Op op_w, ConstMatrix<B> a, ConstMatrix<B> w,
                      typename B::Scalar beta, Matrix<B> c) {
    b.gemm(op_a, op_w, 1, a, w, beta, c);
  }
};
inline constexpr LayerProduct layer_product{};

}  // namespace moxie
