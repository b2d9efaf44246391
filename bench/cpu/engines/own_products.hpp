#pragma once

#include "products.hpp"  // first: it says which types both sides share

#include <algorithm>

#include "moxie/backend/cpu.hpp"
#include "moxie/core/memory.hpp"
#include "moxie/core/parameters.hpp"

namespace bench {

/// How the library multiplies: from packed copies of the weights that outlive a pass, packing what a pass needs, or packing and
/// as its perceptrons call for them, both products for some rows at a time and rows of the hidden layer spaced out.
enum class OwnForm { packed, packing, as_perceptrons };

/// The library's products, as its experts call them.
class OwnProducts final : public ProductsEngine {
  using B = moxie::CpuBackend<float>;

 public:
  OwnProducts(const ProductsProblem& problem, moxie::Executor& executor, OwnForm form)
      : p_(problem), form_(form), b_(executor), scope_(moxie::root(b_)) {
    const moxie::Initializer zero = moxie::Initializer::zeros();
    w1_.id = scope_.add_experts("w1", {p_.experts, p_.width, p_.hidden}, zero, false);
    w2_.id = scope_.add_experts("w2", {p_.experts, p_.hidden, p_.width}, zero, false);
    moxie::Parameters<B>& parameters = *scope_.parameters;
    parameters.initialize(1);
    for (const auto& [w, from] : {Weights{&w1_, p_.w1}, Weights{&w2_, p_.w2}}) {
      const moxie::ParameterEntry& entry = parameters.entry(w->id);
      std::copy_n(from, entry.size(), parameters.edit().data + entry.offset);
    }
    const moxie::Gradients gradients =
        form == OwnForm::packed ? moxie::Gradients::input : moxie::Gradients::all;
    moxie::Arena<B> measured(moxie::Gradients::all);
    bind(measured);
    bytes_ = moxie::Memory<B>(b_, measured.peak());
    moxie::Arena<B> arena(gradients, bytes_.data(), bytes_.bytes());
    bind(arena);
    // A block for the products of weights, which tapes with packed weights have no need of.
    moxie::Arena<B> all(moxie::Gradients::all, bytes_.data(), bytes_.bytes());
    const bool keep = memory_.keep;
    bind(all);
    memory_.keep = keep;
  }

  void forward() override {
    both({w1_, gathered(p_.x, nullptr), moxie::Op::none, hidden(p_.hidden_rows), {}},
         {w2_, plain(hidden(p_.hidden_rows)), moxie::Op::none, rows(p_.out_rows), {}});
  }
  void backward() override {
    const moxie::Rows<B> dy = gathered(p_.dy, p_.scale);
    const moxie::Rows<B> d_hidden = plain(hidden(p_.d_hidden_rows));
    both({w2_, dy, moxie::Op::transpose, hidden(p_.d_hidden_rows), {}},
         {w1_, d_hidden, moxie::Op::transpose, rows(p_.dx_rows), {}});
    moxie::expert_weights_product(b_, memory_, plain(hidden(p_.hidden_rows)), dy,
                                  weights(p_.dw2, p_.hidden, p_.width));
    moxie::expert_weights_product(b_, memory_, gathered(p_.x, nullptr), d_hidden,
                                  weights(p_.dw1, p_.width, p_.hidden));
  }

 private:
  struct Weights {
    moxie::ExpertWeights<B>* w;
    const float* from;
  };
  void bind(moxie::Arena<B>& arena) {
    moxie::expert_product.bind(b_, arena, *scope_.parameters, w1_, w2_, all_rows(), memory_);
  }
  using Step = moxie::ExpertStep<B, moxie::NoEnd>;
  void both(const Step& one, const Step& two) {
    if (form_ == OwnForm::as_perceptrons)
      return moxie::expert_pair(b_, *scope_.parameters, memory_, one, two);
    moxie::ExpertPair::generic(b_, *scope_.parameters, memory_, one, two);
  }
  moxie::Index all_rows() const { return p_.experts * p_.rows; }
  template <class T>
  moxie::MatrixView<T> weights(T* data, moxie::Index in, moxie::Index out) const {
    return {data, p_.experts * in, out};
  }
  moxie::Matrix<B> rows(float* data) const { return {data, all_rows(), p_.width}; }
  moxie::Matrix<B> hidden(float* data) const {
    const bool spaced = form_ == OwnForm::as_perceptrons;
    return {data, all_rows(), p_.hidden,
            spaced ? moxie::detail::row_stride<float>(p_.hidden) : p_.hidden};
  }
  moxie::ConstIntVector<B> offset() const { return {p_.offset, p_.experts + 1}; }
  moxie::Rows<B> plain(moxie::ConstMatrix<B> of) const {
    return {of, {}, {}, offset(), all_rows()};
  }
  moxie::Rows<B> gathered(const float* of_tokens, const float* scale) const {
    return {moxie::ConstMatrix<B>(of_tokens, p_.tokens, p_.width),
            moxie::ConstIntVector<B>(p_.index, all_rows()),
            scale == nullptr ? moxie::ConstVector<B>{} : moxie::ConstVector<B>(scale, all_rows()),
            offset(), all_rows()};
  }

  ProductsProblem p_;
  OwnForm form_;
  B b_;
  moxie::Scope<B> scope_;
  moxie::ExpertWeights<B> w1_, w2_;
  moxie::ExpertMemory<B> memory_;
  moxie::Memory<B> bytes_;
};

}  // namespace bench
