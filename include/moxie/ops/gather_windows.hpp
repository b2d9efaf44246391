#pragma once

#include "moxie/ops/accelerate.hpp"
#include "moxie/ops/row_map.hpp"

namespace moxie {

/// The windows that a convolution looks through: squares of an image that may overlap, and reach
/// over its edge by `padding` zeros. Images lie as rows, pixel by pixel, channels last.
struct WindowShape {
  Index height = 0;
  Index width = 0;
  Index channels = 0;
  Index size = 3;  ///< side of a window
  Index stride = 1;
  Index padding = 1;

  /// Columns of an image row.
  MOXIE_HD constexpr Index pixels() const { return height * width * channels; }
  MOXIE_HD constexpr Index down() const { return (height + 2 * padding - size) / stride + 1; }
  MOXIE_HD constexpr Index across() const { return (width + 2 * padding - size) / stride + 1; }
  MOXIE_HD constexpr Index windows() const { return down() * across(); }
  /// Of a window's row.
  MOXIE_HD constexpr Index columns() const { return size * size * channels; }
};

namespace detail {
/// One call per window; what of a line of it lies inside the image is one run of elements there.
template <Backend B>
struct GatherWindow {
  WindowShape shape;
  ConstMatrix<B> images;
  Matrix<B> windows;

  MOXIE_HD MOXIE_INLINE void operator()(Index r) const {
    using T = typename B::Scalar;
    const Index across = shape.across();
    const Index n = r % shape.windows();
    const Index top = (n / across) * shape.stride - shape.padding;
    const Index left = (n % across) * shape.stride - shape.padding;
    const Index begin = left < 0 ? -left : 0;
    const Index end = left + shape.size > shape.width ? shape.width - left : shape.size;
    const Index run = (end - begin) * shape.channels;
    const T* image = images.row(r / shape.windows());
    T* line = windows.row(r);
    const Index length = shape.size * shape.channels;
    for (Index i = 0; i < shape.size; ++i, line += length) {
      const Index y = top + i;
      if (y < 0 || y >= shape.height) {
        row_map(length, line, [](Index) { return T(0); });
        continue;
      }
      const T* from = image + (y * shape.width + left + begin) * shape.channels;
      T* to = line + begin * shape.channels;
      for (T* z = line; z < to; ++z) *z = T(0);
      row_map(run, to, [=](Index j) { return from[j]; });
      for (T* z = to + run; z < line + length; ++z) *z = T(0);
    }
  }
};

/// One call per pixel: the sum over the windows that see it, line by line.
template <Backend B>
struct ScatterWindow {
  WindowShape shape;
  ConstMatrix<B> windows;
  Matrix<B> images;

  MOXIE_HD MOXIE_INLINE void operator()(Index p) const {
    using T = typename B::Scalar;
    const Index area = shape.height * shape.width;
    const Index image = p / area;
    const Index y = p % area / shape.width + shape.padding;
    const Index x = p % shape.width + shape.padding;
    const Index channels = shape.channels;
    T* to = images.row(image) + (p % area) * channels;
    row_map(channels, to, [](Index) { return T(0); });
    for (Index i = 0; i < shape.size; ++i) {
      if (y < i || (y - i) % shape.stride != 0 || (y - i) / shape.stride >= shape.down()) continue;
      const Index line = image * shape.windows() + (y - i) / shape.stride * shape.across();
      for (Index j = 0; j < shape.size; ++j) {
        if (x < j || (x - j) % shape.stride != 0 || (x - j) / shape.stride >= shape.across())
          continue;
        const T* from =
            windows.row(line + (x - j) / shape.stride) + (i * shape.size + j) * channels;
        row_map(channels, to, [=](Index c) { return to[c] + from[c]; });
      }
    }
  }
};
}  // namespace detail

/// Rows of images [images, height * width * channels] to rows of windows [images * windows, size *
/// size * channels]: windows of an image row by row, inside a window (line, column, channel), as a
/// convolution kernel of flax lies. Beyond the edge there are zeros.
struct GatherWindows {
  template <Backend B>
  void operator()(B& b, const WindowShape& shape, ConstMatrix<B> images, Matrix<B> windows) const {
    detail::run_or_generic(*this, b, shape, images, windows);
  }
  template <Backend B>
  static void generic(B& b, const WindowShape& shape, ConstMatrix<B> images, Matrix<B> windows) {
    b.for_each(windows.rows, detail::GatherWindow<B>{shape, images, windows},
               detail::row_grain(windows.cols));
  }
};
inline constexpr GatherWindows gather_windows{};

/// The adjoint: a pixel gets the sum of what every window has in its place. All of `images` is
/// overwritten.
struct ScatterWindows {
  template <Backend B>
  void operator()(B& b, const WindowShape& shape, ConstMatrix<B> windows, Matrix<B> images) const {
    detail::run_or_generic(*this, b, shape, windows, images);
  }
  template <Backend B>
  static void generic(B& b, const WindowShape& shape, ConstMatrix<B> windows, Matrix<B> images) {
    b.for_each(images.rows * shape.height * shape.width,
               detail::ScatterWindow<B>{shape, windows, images},
               detail::row_grain(shape.columns()));
  }
};
inline constexpr ScatterWindows scatter_windows{};

}  // namespace moxie
