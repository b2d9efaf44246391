#pragma once

#include "moxie/nn/linear.hpp"
#include "moxie/ops/gather_windows.hpp"

namespace moxie {

/// A convolution: every window of an image times one matrix.   x: [images, height * width *
/// channels], pixel by pixel, channels last; y: [images, windows * O], windows row by row, so that
/// y is the x of a convolution over O channels.
///
/// Parameters: kernel [size, size, channels, O] and, unless left out, bias [O]. Rows of y and dy
/// must lie without gaps (shape_error). Cost: windows size^2 channels O multiply-adds forward,
/// twice that backward. Windows are copied out for as many images at a time as fill about 2^20
/// elements, and again in a backward that wants the kernel's gradient: memory does not grow with
/// the batch.
template <Backend B>
class Convolution {
 public:
  using BackendType = B;
  struct Tape {
    detail::PassState<B> state;
    Matrix<B> windows;  // of some images; in the backward also their gradient
    Scratch<B> sums;
  };

  /// @throws config_error unless all sizes are >= 1, padding >= 0 and below size, and the image at
  /// least as large as a window less its padding
  Convolution(const Scope<B>& scope, const WindowShape& shape, Index output,
              const LinearOptions& options)
      : shape_(checked(shape)),
        linear_(scope, {shape.size, shape.size, shape.channels, checked_output(output)}, options) {}
  /// With a bias, and a kernel that starts LeCun normal.
  Convolution(const Scope<B>& scope, const WindowShape& shape, Index output)
      : Convolution(scope, shape, output,
                    {.kernel_start = Initializer::lecun_normal(checked(shape).columns())}) {}

  const WindowShape& shape() const { return shape_; }
  Index input_width() const { return shape_.pixels(); }
  Index output_width() const { return shape_.windows() * channels(); }
  /// O.
  Index channels() const { return linear_.output_width(); }
  /// As a matrix [size * size * channels, O].
  ConstMatrix<B> kernel() const { return linear_.kernel(); }
  Parameters<B>& parameters() const { return linear_.parameters(); }

  void bind(Arena<B>& arena, Index images, Tape& t) const {
    typename Arena<B>::Scope scope(arena);
    t.state.bind(arena, images);
    const Index rows = (images < at_a_time() ? images : at_a_time()) * shape_.windows();
    t.windows = arena.template scratch<typename B::Scalar>(rows, shape_.columns());
    t.sums = linear_.bind_sums(arena, rows);
  }
  void forward(ConstMatrix<B> x, Matrix<B> y, Tape& t, const Pass<B>& pass) const {
    const Matrix<B> out = detail::token_rows(who, "y", y, shape_.windows());
    t.state.begin_forward(who, x, y, input_width(), output_width(), pass);
    for (Index first = 0; first < x.rows; first += at_a_time()) {
      const Part part(*this, first, x.rows);
      const Matrix<B> windows = t.windows.top(part.rows);
      gather_windows(linear_.backend(), shape_, x.middle(first, part.images), windows);
      linear_.apply(windows, out.middle(part.first_row, part.rows));
    }
  }
  void backward(ConstMatrix<B> dy, Matrix<B> dx, Tape& t) const {
    const ConstMatrix<B> out = detail::token_rows(who, "dy", dy, shape_.windows());
    t.state.begin_backward(who, dy, dx, input_width(), output_width());
    for (Index first = 0; first < dy.rows; first += at_a_time()) {
      const Part part(*this, first, dy.rows);
      const Matrix<B> windows = t.windows.top(part.rows);
      const ConstMatrix<B> d = out.middle(part.first_row, part.rows);
      if (t.state.wants_weights()) {
        gather_windows(linear_.backend(), shape_, t.state.x.middle(first, part.images), windows);
        linear_.add_gradients(windows, d, t.sums);
      }
      if (!dx) continue;
      linear_.input_gradient(d, windows);
      scatter_windows(linear_.backend(), shape_, ConstMatrix<B>(windows),
                      dx.middle(first, part.images));
    }
  }

 private:
  static constexpr const char* who = "moxie::Convolution";
  /// Images whose windows are in memory at a time.
  Index at_a_time() const {
    const Index images = (Index{1} << 20) / (shape_.windows() * shape_.columns());
    return images > 1 ? images : 1;
  }
  struct Part {
    Index images, rows, first_row;

    Part(const Convolution& c, Index first, Index all)
        : images(all - first < c.at_a_time() ? all - first : c.at_a_time()),
          rows(images * c.shape_.windows()),
          first_row(first * c.shape_.windows()) {}
  };
  static const WindowShape& checked(const WindowShape& s) {
    detail::require_positive(who, "height", s.height);
    detail::require_positive(who, "width", s.width);
    detail::require_positive(who, "channels", s.channels);
    detail::require_positive(who, "size", s.size);
    detail::require_positive(who, "stride", s.stride);
    if (s.padding < 0 || s.padding >= s.size)
      throw_config(who, ": padding is ", s.padding, ", expected 0 to ", s.size - 1,
                   " (size less one)");
    if (s.height + 2 * s.padding < s.size || s.width + 2 * s.padding < s.size)
      throw_config(who, ": size is ", s.size, ", expected at most that of the padded image, ",
                   s.height + 2 * s.padding, " x ", s.width + 2 * s.padding);
    return s;
  }
  static Index checked_output(Index output) {
    detail::require_positive(who, "output channels", output);
    return output;
  }

  WindowShape shape_;
  Linear<B> linear_;
};

}  // namespace moxie
