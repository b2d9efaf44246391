#pragma once

#include "moxie/ops/softmax.hpp"
#include "moxie/ops/top_k.hpp"

namespace moxie {

/// out = softmax_rows(in) and choice = top_k_rows(in, mask): one pass where a backend has a twin.
/// in, out: [R, E], different memory; mask: [R] or empty, for `choice` alone; choice: [R, K], K <=
/// E.
struct SoftmaxTopKRows {
  template <Backend B>
  void operator()(B& b, ConstMatrix<B> in, ConstIntVector<B> mask, Matrix<B> out,
                  IntMatrix<B> choice) const {
    detail::run_or_generic(*this, b, in, mask, out, choice);
  }
  template <Backend B>
  static void generic(B& b, ConstMatrix<B> in, ConstIntVector<B> mask, Matrix<B> out,
                      IntMatrix<B> choice) {
    softmax_rows(b, in, out);
    top_k_rows(b, in, mask, choice);
  }
};
inline constexpr SoftmaxTopKRows softmax_top_k_rows{};

}  // namespace moxie
