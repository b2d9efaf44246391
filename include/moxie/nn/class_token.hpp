#pragma once

#include "moxie/nn/pass_state.hpp"
#include "moxie/ops/copy_rows.hpp"
#include "moxie/ops/layer_norm.hpp"

namespace moxie {

/// Puts one learned token before the tokens of every image.
/// x: [images, tokens * D], y: [images, (1 + tokens) * D]; parameter cls [1, 1, D], which starts at
/// 0.
template <Backend B>
class ClassToken {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Scratch<B> sums;
  };

  /// @throws config_error unless tokens, width >= 1
  ClassToken(const Scope<B>& scope, Index tokens, Index width)
      : parameters_(scope.parameters), tokens_(tokens), width_(width) {
    detail::require_positive(who, "tokens", tokens);
    detail::require_positive(who, "width", width);
    token_ = scope.add("cls", {1, 1, width}, Initializer::zeros());
  }

  Index input_width() const { return tokens_ * width_; }
  Index output_width() const { return (1 + tokens_) * width_; }
  Parameters<B>& parameters() const { return *parameters_; }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, images);
    t.sums = {};
    if (arena.wants_weights())
      t.sums = arena.scratch_bytes(parameters_->backend().column_sums_bytes(images, width_));
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    B& b = parameters_->backend();
    copy_rows(b, parameters_->value(token_), y.columns(0, width_));
    copy_rows(b, x, y.columns(width_, input_width()));
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    B& b = parameters_->backend();
    if (t.state.wants_weights())
      b.column_sums(dy.rows, width_, detail::ElementTerm<B>{dy.columns(0, width_)},
                    parameters_->gradient_vector(token_), t.sums);
    if (dx) copy_rows(b, dy.columns(width_, input_width()), dx);
  }

 private:
  static constexpr const char* who = "moxie::ClassToken";

  std::shared_ptr<Parameters<B>> parameters_;
  Index tokens_;
  Index width_;
  typename Parameters<B>::Id token_ = 0;
};

}  // namespace moxie
