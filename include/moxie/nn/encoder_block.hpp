#pragma once

#include "moxie/layer/any_layer.hpp"
#include "moxie/nn/attention.hpp"
#include "moxie/nn/layer_norm.hpp"
#include "moxie/ops/add_rows.hpp"

namespace moxie {

/// One block of a transformer: m = x + attention(norm(x)), y = m + feed(norm(m)).   x, y: [images *
/// tokens, D]. The feed is any layer of that width: an Mlp, a MoeLayer, or a composition of them.
/// Parameters: LayerNorm_0, SelfAttention, LayerNorm_1, and those of the feed.
template <Backend B>
class EncoderBlock {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Matrix<B> normed_0, middle, normed_1;  // [R, D]
    Matrix<B> branch;  // what a branch adds; in the backward the gradient of its norm
    Matrix<B> d_middle;
    typename LayerNorm<B>::Tape norm_0, norm_1;
    typename SelfAttention<B>::Tape attention;
    typename AnyLayer<B>::Tape feed;
  };

  /// @throws config_error as SelfAttention, or if the feed has another width
  EncoderBlock(const Scope<B>& scope, const AttentionConfig& config, AnyLayer<B> feed)
      : norm_0_(scope / "LayerNorm_0", config.width),
        attention_(scope / "SelfAttention", config),
        norm_1_(scope / "LayerNorm_1", config.width),
        feed_(std::move(feed)) {
    if (feed_.input_width() != config.width || feed_.output_width() != config.width)
      throw_config("moxie::EncoderBlock: the feed maps rows of ", feed_.input_width(),
                   " to rows of ", feed_.output_width(), ", expected ", config.width,
                   " both times: it stands in a residual block");
  }

  Index input_width() const { return attention_.input_width(); }
  Index output_width() const { return attention_.output_width(); }
  Parameters<B>& parameters() const { return attention_.parameters(); }
  const AnyLayer<B>& feed() const { return feed_; }
  Index moe_layers() const { return feed_.moe_layers(); }
  void visit_routing(Tape& t, RoutingVisitor<B>& visitor) const {
    feed_.visit_routing(t.feed, visitor);
  }

  void bind(Arena<B>& arena, Index rows, Tape& t) const {
    using T = typename B::Scalar;
    using Scope = typename Arena<B>::Scope;
    const Index width = input_width();
    const Scope scope(arena);
    t.state.bind(arena, rows);
    t.middle = arena.template saved<T>(rows, width);
    t.branch = arena.template scratch<T>(rows, width);
    t.d_middle = {};
    if (arena.wants_input()) t.d_middle = arena.template scratch<T>(rows, width);
    {
      const Scope half(arena);
      t.normed_0 = arena.template saved_for_weights<T>(rows, width);
      norm_0_.bind(arena, rows, t.norm_0);
      attention_.bind(arena, rows, t.attention);
    }
    {
      const Scope half(arena);
      // Not only for weights: routers read it for the gradients of their input.
      t.normed_1 = arena.template saved<T>(rows, width);
      norm_1_.bind(arena, rows, t.norm_1);
      feed_.bind(arena, rows, t.feed);
    }
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    B& b = parameters().backend();
    const Matrix<B> middle = t.middle.top(x.rows);
    const Matrix<B> branch = t.branch.top(x.rows);
    norm_0_.forward(x, t.normed_0.top(x.rows), t.norm_0, pass);
    attention_.forward(t.normed_0.top(x.rows), branch, t.attention, pass);
    add_rows(b, x, ConstMatrix<B>(branch), middle);
    norm_1_.forward(middle, t.normed_1.top(x.rows), t.norm_1, pass);
    feed_.forward(t.normed_1.top(x.rows), branch, t.feed, pass);
    add_rows(b, ConstMatrix<B>(middle), ConstMatrix<B>(branch), y);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    const Matrix<B> d_normed = t.branch.top(dy.rows);
    const Matrix<B> d_middle = t.d_middle.top(dy.rows);
    feed_.backward(dy, d_normed, t.feed);
    norm_1_.backward(d_normed, dy, d_middle, t.norm_1);
    attention_.backward(d_middle, d_normed, t.attention);
    norm_0_.backward(d_normed, d_middle, dx, t.norm_0);
  }

 private:
  static constexpr const char* who = "moxie::EncoderBlock";

  LayerNorm<B> norm_0_;
  SelfAttention<B> attention_;
  LayerNorm<B> norm_1_;
  AnyLayer<B> feed_;
};

}  // namespace moxie
