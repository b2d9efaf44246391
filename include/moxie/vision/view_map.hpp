#pragma once

#include <array>
#include <cmath>

#include "moxie/core/error.hpp"
#include "moxie/core/view.hpp"

namespace moxie {

/// A point of an image in pixels, continuous: pixel (r, c) covers [r, r+1) x [c, c+1), y points down.
struct ImagePoint {
  double y = 0, x = 0;
};

/// A rectangle of an image in pixels: [y, y + height) x [x, x + width).
struct ImageBox {
  double y = 0, x = 0;
  double height = 0, width = 0;

  double area() const { return height * width; }
  bool contains(ImagePoint p) const {
    return p.y >= y && p.y < y + height && p.x >= x && p.x < x + width;
  }
  friend constexpr bool operator==(const ImageBox&, const ImageBox&) = default;
};

/// Where an operation on images takes a point: a 3x3 matrix, row-major, acting on (y, x, 1). Forward:
/// from what goes in to what comes out, both in pixels. Maps compose on the left, so what a crop and
/// then a flip do is `ViewMap::flip_horizontal(n) * ViewMap::crop_resize(crop, n, n)`. Photometric
/// operations move nothing: the identity.
///
/// The half-pixel terms of shears are those of sampling at the centres of pixels; rotations turn about
/// the centre of the image.   Source: the released code of Pairwise Router Consistency,
/// `autoaugment_R.py`, which leaves these terms out (at most 0.3 pixels).
struct ViewMap {
  std::array<double, 9> m{1, 0, 0, 0, 1, 0, 0, 0, 1};

  /// `crop` of the source, resized to height x width; each axis by its own factor.
  /// @throws config_error unless all sizes are positive
  static ViewMap crop_resize(const ImageBox& crop, double height, double width) {
    if (!(crop.height > 0 && crop.width > 0 && height > 0 && width > 0))
      throw_config("moxie::ViewMap::crop_resize: a crop of ", crop.height, " x ", crop.width,
                   " resized to ", height, " x ", width, ", expected sizes above 0");
    const double by_y = height / crop.height;
    const double by_x = width / crop.width;
    return {{by_y, 0, -by_y * crop.y, 0, by_x, -by_x * crop.x, 0, 0, 1}};
  }
  /// An image of one size, resized to another.   @throws config_error likewise
  static ViewMap resize(double from_height, double from_width, double height, double width) {
    return crop_resize({0, 0, from_height, from_width}, height, width);
  }
  /// Left and right change places in an image so wide.
  static ViewMap flip_horizontal(double width) { return {{1, 0, 0, 0, -1, width, 0, 0, 1}}; }
  /// Top and bottom change places in an image so high.
  static ViewMap flip_vertical(double height) { return {{-1, 0, height, 0, 1, 0, 0, 0, 1}}; }
  /// About the centre of an image of height x width pixels: with c and s the cosine and sine of the
  /// angle, and coordinates from the centre, out(x, y) is sampled at in(x c - y s, x s + y c).
  static ViewMap rotation(double degrees, double height, double width) {
    constexpr double pi = 3.141592653589793238462643383279502884;
    const double c = std::cos(degrees * pi / 180);
    const double s = std::sin(degrees * pi / 180);
    const double y = height / 2;
    const double x = width / 2;
    return {{c, -s, y - c * y + s * x, s, c, x - s * y - c * x, 0, 0, 1}};
  }
  /// Content moves up by dy and left by dx pixels.
  static ViewMap translation(double dy, double dx) { return {{1, 0, -dy, 0, 1, -dx, 0, 0, 1}}; }
  /// out(x, y) is sampled at in(x + by * y, y), in indices of pixels.
  static ViewMap shear_x(double by) { return {{1, 0, 0, -by, 1, by / 2, 0, 0, 1}}; }
  /// out(x, y) is sampled at in(x, y + by * x), in indices of pixels.
  static ViewMap shear_y(double by) { return {{1, -by, by / 2, 0, 1, 0, 0, 0, 1}}; }

  double operator()(Index row, Index col) const {
    return m[static_cast<std::size_t>(3 * row + col)];
  }
  /// Where the point goes; not finite for one at infinity.
  ImagePoint operator()(ImagePoint p) const {
    const double w = m[6] * p.y + m[7] * p.x + m[8];
    return {(m[0] * p.y + m[1] * p.x + m[2]) / w, (m[3] * p.y + m[4] * p.x + m[5]) / w};
  }
  /// The way back.   @throws config_error if there is none
  ViewMap inverse() const {
    const double a = m[4] * m[8] - m[5] * m[7];
    const double b = m[5] * m[6] - m[3] * m[8];
    const double c = m[3] * m[7] - m[4] * m[6];
    const double det = m[0] * a + m[1] * b + m[2] * c;
    if (!(det != 0 && std::isfinite(det)))
      throw_config("moxie::ViewMap::inverse: the determinant is ", det,
                   ", expected a finite number that is not 0");
    return {{a / det, (m[2] * m[7] - m[1] * m[8]) / det, (m[1] * m[5] - m[2] * m[4]) / det, b / det,
             (m[0] * m[8] - m[2] * m[6]) / det, (m[2] * m[3] - m[0] * m[5]) / det, c / det,
             (m[1] * m[6] - m[0] * m[7]) / det, (m[0] * m[4] - m[1] * m[3]) / det}};
  }
  friend ViewMap operator*(const ViewMap& last, const ViewMap& first) {
    ViewMap all{{}};
    for (std::size_t r = 0; r < 3; ++r)
      for (std::size_t c = 0; c < 3; ++c)
        for (std::size_t k = 0; k < 3; ++k)
          all.m[3 * r + c] += last.m[3 * r + k] * first.m[3 * k + c];
    return all;
  }
  friend bool operator==(const ViewMap&, const ViewMap&) = default;
};

}  // namespace moxie
