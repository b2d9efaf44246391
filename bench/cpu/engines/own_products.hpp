#pragma once

#include "products.hpp"  // first: it says which types both sides share

#include "moxie/backend/cpu.hpp"

namespace bench {

/// The library's products, as its experts call them.
class OwnProducts final : public ProductsEngine {
  using B = moxie::CpuBackend<float>;

 public:
  OwnProducts(const ProductsProblem& problem, moxie::Executor& executor)
      : p_(problem), b_(executor) {}

  void forward() override {
    b_.grouped_gemm(gathered(p_.x, nullptr), moxie::Op::none, weights(p_.w1, p_.width, p_.hidden),
                    rows(p_.hidden_rows, p_.hidden));
    b_.grouped_gemm(plain(p_.hidden_rows, p_.hidden), moxie::Op::none,
                    weights(p_.w2, p_.hidden, p_.width), rows(p_.out_rows, p_.width));
  }
  void backward() override {
    const moxie::Rows<B> dy = gathered(p_.dy, p_.scale);
    b_.grouped_gemm(dy, moxie::Op::transpose, weights(p_.w2, p_.hidden, p_.width),
                    rows(p_.d_hidden_rows, p_.hidden));
    b_.grouped_gemm_weights(plain(p_.hidden_rows, p_.hidden), dy,
                            weights(p_.dw2, p_.hidden, p_.width));
    const moxie::Rows<B> d_hidden = plain(p_.d_hidden_rows, p_.hidden);
    b_.grouped_gemm_weights(gathered(p_.x, nullptr), d_hidden,
                            weights(p_.dw1, p_.width, p_.hidden));
    b_.grouped_gemm(d_hidden, moxie::Op::transpose, weights(p_.w1, p_.width, p_.hidden),
                    rows(p_.dx_rows, p_.width));
  }

 private:
  moxie::Index all_rows() const { return p_.experts * p_.rows; }
  template <class T>
  moxie::MatrixView<T> weights(T* data, moxie::Index in, moxie::Index out) const {
    return {data, p_.experts * in, out};
  }
  moxie::Matrix<B> rows(float* data, moxie::Index width) const { return {data, all_rows(), width}; }
  moxie::ConstIntVector<B> offset() const { return {p_.offset, p_.experts + 1}; }
  moxie::Rows<B> plain(const float* data, moxie::Index width) const {
    return {moxie::ConstMatrix<B>(data, all_rows(), width), {}, {}, offset(), all_rows()};
  }
  moxie::Rows<B> gathered(const float* of_tokens, const float* scale) const {
    return {moxie::ConstMatrix<B>(of_tokens, p_.tokens, p_.width),
            moxie::ConstIntVector<B>(p_.index, all_rows()),
            scale == nullptr ? moxie::ConstVector<B>{} : moxie::ConstVector<B>(scale, all_rows()),
            offset(), all_rows()};
  }

  ProductsProblem p_;
  B b_;
};

}  // namespace bench
