#pragma once

#include <optional>

#include "moxie/nn/convolution.hpp"
#include "moxie/nn/layer_norm.hpp"
#include "moxie/ops/activate.hpp"
#include "moxie/ops/add_rows.hpp"

namespace moxie {

/// What the channels of a pixel go through before an activation.
enum class PixelNorm {
  layer,  ///< layer norm over the channels of each pixel: knows no other pixel and no other image
  none    ///< nothing: the network keeps a finite Lipschitz constant
};

/// Two 3 x 3 convolutions beside a shortcut, activation first:
///   y = shortcut(x) + conv_1(A(norm_1(conv_0(A(norm_0(x))))))
/// x: [images, height * width * channels], y: [images, (height / stride) * (width / stride) * O].
/// The shortcut is x itself, or a 1 x 1 convolution where the shape changes.
///
/// Parameters: LayerNorm_0, LayerNorm_1, Conv_0, Conv_1, Conv_shortcut; biases stand in the norms,
/// or without norms in the convolutions. Without norms Conv_1's kernel starts at 0, so that a deep
/// network starts as its shortcuts. Rows of x, y and their gradients must lie without gaps
/// (shape_error).
/// Source: He et al., "Identity Mappings in Deep Residual Networks", 2016; Zhang et al., "Fixup
/// Initialization", 2019. Layer norm instead of batch norm, whose result for an image depends on
/// the images beside it.
template <Backend B, class A = Relu>
class ResidualBlock {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Matrix<B> pre_0, act_0;          // [images * pixels, C]; pre_0 is x without a norm
    Matrix<B> middle, pre_1, act_1;  // [images * windows, O]; pre_1 is middle without a norm
    Matrix<B> shortcut;              // [images, windows * O] of a convolution
    Matrix<B> d_in, d_out;           // [images * pixels, C], [images * windows, O]
    typename Convolution<B>::Tape conv_0, conv_1, conv_shortcut;
    typename LayerNorm<B>::Tape norm_0, norm_1;
  };
  struct Shape {
    Index height = 0, width = 0, channels = 0;
    Index output = 0;  ///< channels of y
    Index stride = 1;
    PixelNorm norm = PixelNorm::layer;
  };

  /// @throws config_error as Convolution
  ResidualBlock(const Scope<B>& scope, const Shape& s)
      : pixels_(s.height * s.width),
        norm_0_(make_norm(scope / "LayerNorm_0", s.norm, s.channels)),
        norm_1_(make_norm(scope / "LayerNorm_1", s.norm, s.output)),
        conv_0_(scope / "Conv_0", windows(s, 3), s.output, start(s, s.channels)),
        conv_1_(scope / "Conv_1",
                {.height = conv_0_.shape().down(),
                 .width = conv_0_.shape().across(),
                 .channels = s.output},
                s.output, last_start(s)) {
    if (s.stride != 1 || s.output != s.channels)
      shortcut_.emplace(
          scope / "Conv_shortcut", windows(s, 1), s.output,
          LinearOptions{.bias = false, .kernel_start = Initializer::lecun_normal(s.channels)});
  }

  Index input_width() const { return conv_0_.input_width(); }
  Index output_width() const { return conv_1_.output_width(); }
  const WindowShape& output_shape() const { return conv_1_.shape(); }
  Parameters<B>& parameters() const { return conv_0_.parameters(); }
  const Convolution<B>& conv_0() const { return conv_0_; }
  const Convolution<B>& conv_1() const { return conv_1_; }
  /// Empty where the shortcut is x itself.
  const std::optional<Convolution<B>>& shortcut() const { return shortcut_; }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    using T = typename B::Scalar;
    const typename Arena<B>::Scope scope(arena);
    const Index in = images * pixels_, out = images * conv_0_.shape().windows();
    const Index channels = conv_0_.shape().channels, wide = conv_0_.channels();
    t.state.bind(arena, images);
    if (norm_0_) t.pre_0 = arena.template saved<T>(in, channels);
    t.act_0 = arena.template saved_for_weights<T>(in, channels);
    t.middle = arena.template saved<T>(out, wide);
    if (norm_1_) t.pre_1 = arena.template saved<T>(out, wide);
    t.act_1 = arena.template saved_for_weights<T>(out, wide);
    t.d_in = t.d_out = t.shortcut = {};
    if (shortcut_) t.shortcut = arena.template scratch<T>(images, output_width());
    if (arena.wants_input()) {
      t.d_in = arena.template scratch<T>(in, channels);
      t.d_out = arena.template scratch<T>(out, wide);
    }
    if (norm_0_) norm_0_->bind(arena, in, t.norm_0);
    conv_0_.bind(arena, images, t.conv_0);
    if (norm_1_) norm_1_->bind(arena, out, t.norm_1);
    conv_1_.bind(arena, images, t.conv_1);
    if (shortcut_) shortcut_->bind(arena, images, t.conv_shortcut);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    const ConstMatrix<B> in = detail::token_rows(who, "x", x, pixels_);
    detail::token_rows(who, "y", y, conv_0_.shape().windows());
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    B& b = parameters().backend();
    const Index images = x.rows;
    const Matrix<B> act_0 = t.act_0.top(in.rows);
    const Matrix<B> middle = t.middle.top(images * conv_0_.shape().windows());
    const Matrix<B> act_1 = t.act_1.top(middle.rows);
    if (norm_0_) norm_0_->forward(in, t.pre_0.top(in.rows), t.norm_0, pass);
    activate<A>(b, before_0(t, in), act_0);
    conv_0_.forward(by_image(act_0, images), by_image(middle, images), t.conv_0, pass);
    if (norm_1_) norm_1_->forward(middle, t.pre_1.top(middle.rows), t.norm_1, pass);
    activate<A>(b, before_1(t, middle.rows), act_1);
    conv_1_.forward(by_image(act_1, images), y, t.conv_1, pass);
    ConstMatrix<B> beside = x;
    if (shortcut_) {
      shortcut_->forward(x, t.shortcut.top(images), t.conv_shortcut, pass);
      beside = t.shortcut.top(images);
    }
    add_rows(b, ConstMatrix<B>(y), beside, y);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    detail::token_rows(who, "dy", dy, conv_0_.shape().windows());
    if (dx) detail::token_rows(who, "dx", dx, pixels_);
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    B& b = parameters().backend();
    const Index images = dy.rows;
    const ConstMatrix<B> in = detail::token_rows(who, "x", t.state.x, pixels_);
    const Matrix<B> d_in = t.d_in.top(in.rows);
    const Matrix<B> d_out = t.d_out.top(images * conv_0_.shape().windows());
    if (shortcut_) shortcut_->backward(dy, dx, t.conv_shortcut);
    conv_1_.backward(dy, by_image(d_out, images), t.conv_1);
    activation_backward<A>(b, ConstIntVector<B>{}, before_1(t, d_out.rows), d_out);
    if (norm_1_) norm_1_->backward(d_out, d_out, t.norm_1);
    conv_0_.backward(by_image(d_out, images), by_image(d_in, images), t.conv_0);
    activation_backward<A>(b, ConstIntVector<B>{}, before_0(t, in), d_in);
    if (!dx) {
      if (norm_0_) norm_0_->backward(d_in, {}, t.norm_0);
      return;
    }
    const ConstMatrix<B> beside =
        detail::token_rows(who, "dx", shortcut_ ? ConstMatrix<B>(dx) : dy, pixels_);
    const Matrix<B> to = detail::token_rows(who, "dx", dx, pixels_);
    if (norm_0_) {
      norm_0_->backward(d_in, beside, to, t.norm_0);
    } else {
      add_rows(b, ConstMatrix<B>(d_in), beside, to);
    }
  }

 private:
  static constexpr const char* who = "moxie::ResidualBlock";
  static WindowShape windows(const Shape& s, Index size) {
    return {.height = s.height,
            .width = s.width,
            .channels = s.channels,
            .size = size,
            .stride = s.stride,
            .padding = size / 2};
  }
  /// Twice the variance of LeCun, as an activation that is 0 for half of its inputs wants it.
  static LinearOptions start(const Shape& s, Index channels) {
    Initializer he = Initializer::lecun_normal(9 * channels);
    he.scale *= 1.4142135623730951;
    return {.bias = s.norm == PixelNorm::none, .kernel_start = he};
  }
  static LinearOptions last_start(const Shape& s) {
    LinearOptions o = start(s, s.output);
    o.bias = true;
    if (s.norm == PixelNorm::none) o.kernel_start = Initializer::zeros();
    return o;
  }
  static std::optional<LayerNorm<B>> make_norm(const Scope<B>& scope, PixelNorm kind,
                                               Index channels) {
    if (kind == PixelNorm::none) return std::nullopt;
    return LayerNorm<B>(scope, channels);
  }
  ConstMatrix<B> before_0(const Tape& t, ConstMatrix<B> x) const {
    return norm_0_ ? ConstMatrix<B>(t.pre_0.top(x.rows)) : x;
  }
  ConstMatrix<B> before_1(const Tape& t, Index rows) const {
    return (norm_1_ ? t.pre_1 : t.middle).top(rows);
  }
  /// Rows of pixels as rows of images; our own buffers have no gaps.
  static Matrix<B> by_image(Matrix<B> pixels, Index images) {
    return {pixels.data, images, images > 0 ? pixels.size() / images : 0};
  }

  Index pixels_;
  std::optional<LayerNorm<B>> norm_0_, norm_1_;
  Convolution<B> conv_0_, conv_1_;
  std::optional<Convolution<B>> shortcut_;
};

}  // namespace moxie
