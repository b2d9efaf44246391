#pragma once

#include "moxie/nn/pass_state.hpp"
#include "moxie/ops/copy_rows.hpp"
#include "moxie/ops/fill_rows.hpp"
#include "moxie/ops/mean_tokens.hpp"

namespace moxie {

/// How the tokens of an image become one row.
enum class Pooling {
  token,  ///< the first one, a class token
  mean,   ///< their mean
  map     ///< attention of a learned probe (nn/attention_pooling.hpp)
};

/// The first token of every image, or the mean of its tokens.   x: [images, tokens * D], y:
/// [images, D]. No parameters; `parameters` are those of the model it stands in.
template <Backend B>
class SimplePooling {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
  };

  /// @throws config_error unless tokens, width >= 1, or for Pooling::map
  SimplePooling(const Scope<B>& scope, Index tokens, Index width, Pooling kind)
      : parameters_(scope.parameters), tokens_(tokens), width_(width), kind_(kind) {
    detail::require_positive(who, "tokens", tokens);
    detail::require_positive(who, "width", width);
    if (kind == Pooling::map)
      throw_config(who, ": kind is Pooling::map, expected token or mean: AttentionPooling is map");
  }

  Index input_width() const { return tokens_ * width_; }
  Index output_width() const { return width_; }
  Parameters<B>& parameters() const { return *parameters_; }

  void bind(Arena<B>& arena, Index images, Tape& t) const { t.state.bind(arena, images); }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, input_width(), width_, pass);
    B& b = parameters_->backend();
    if (kind_ == Pooling::mean) return mean_tokens(b, x, y);
    copy_rows(b, x.columns(0, width_), y);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, input_width(), width_);
    if (!dx) return;
    B& b = parameters_->backend();
    if (kind_ == Pooling::mean) return mean_tokens_backward(b, dy, dx);
    copy_rows(b, dy, dx.columns(0, width_));
    fill_rows(b, 0, dx.columns(width_, input_width() - width_));
  }

 private:
  static constexpr const char* who = "moxie::SimplePooling";

  std::shared_ptr<Parameters<B>> parameters_;
  Index tokens_;
  Index width_;
  Pooling kind_;
};

}  // namespace moxie
