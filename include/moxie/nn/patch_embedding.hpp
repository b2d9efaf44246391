#pragma once

#include "moxie/nn/linear.hpp"
#include "moxie/ops/gather_patches.hpp"

namespace moxie {

/// Images to tokens: each patch times one matrix, which is a convolution whose stride is its size.
/// x: [images, height * width * channels], pixel by pixel, channels last; y: [images, patches * D],
/// patches row by row.
///
/// Parameters: kernel [patch, patch, channels, D], which starts LeCun normal, and bias [D]. Rows of
/// y and dy must lie without gaps (shape_error). Cost: pixels D multiply-adds forward, twice that
/// backward; memory: one copy of the images, kept only for the gradient of the kernel.
template <Backend B>
class PatchEmbedding {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Matrix<B> patches;    // [images * patches, patch * patch * channels]
    Matrix<B> d_patches;  // the same
    Scratch<B> sums;
  };

  /// @throws config_error unless all sizes are >= 1 and the patch divides height and width
  PatchEmbedding(const Scope<B>& scope, const PatchShape& shape, Index width)
      : shape_(checked(shape)),
        linear_(scope, {shape.patch, shape.patch, shape.channels, checked_width(width)},
                {.kernel_start = Initializer::lecun_normal(shape.columns())}) {}

  const PatchShape& shape() const { return shape_; }
  Index input_width() const { return shape_.pixels(); }
  Index output_width() const { return shape_.patches() * linear_.output_width(); }
  Parameters<B>& parameters() const { return linear_.parameters(); }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    using T = typename B::Scalar;
    typename Arena<B>::Scope scope(arena);
    const Index rows = images * shape_.patches();
    t.state.bind(arena, images);
    t.patches = arena.template saved_for_weights<T>(rows, shape_.columns());
    t.d_patches = {};
    if (arena.wants_input()) t.d_patches = arena.template scratch<T>(rows, shape_.columns());
    t.sums = linear_.bind_sums(arena, rows);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    const Matrix<B> tokens = detail::token_rows(who, "y", y, shape_.patches());
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    const Matrix<B> patches = t.patches.top(tokens.rows);
    gather_patches(linear_.backend(), shape_, x, patches);
    linear_.apply(patches, tokens);
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    const ConstMatrix<B> tokens = detail::token_rows(who, "dy", dy, shape_.patches());
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    if (t.state.wants_weights()) linear_.add_gradients(t.patches.top(tokens.rows), tokens, t.sums);
    if (!dx) return;
    const Matrix<B> d_patches = t.d_patches.top(tokens.rows);
    linear_.input_gradient(tokens, d_patches);
    scatter_patches(linear_.backend(), shape_, ConstMatrix<B>(d_patches), dx);
  }

 private:
  static constexpr const char* who = "moxie::PatchEmbedding";
  static const PatchShape& checked(const PatchShape& s) {
    detail::require_positive(who, "height", s.height);
    detail::require_positive(who, "width", s.width);
    detail::require_positive(who, "channels", s.channels);
    detail::require_positive(who, "patch", s.patch);
    if (s.height % s.patch != 0 || s.width % s.patch != 0)
      throw_config(who, ": patch is ", s.patch, ", expected a divisor of the image's height ",
                   s.height, " and width ", s.width);
    return s;
  }
  static Index checked_width(Index width) {
    detail::require_positive(who, "output width", width);
    return width;
  }

  PatchShape shape_;
  Linear<B> linear_;
};

}  // namespace moxie
