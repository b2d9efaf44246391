#include "moxie/vision/view_map.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "moxie/vision/image_view.hpp"

using namespace moxie;

namespace {
void check_point(ImagePoint got, double y, double x) {
  CHECK(got.y == doctest::Approx(y).epsilon(1e-12));
  CHECK(got.x == doctest::Approx(x).epsilon(1e-12));
}
void check_map(const ViewMap& got, const std::array<double, 9>& wanted) {
  for (Index r = 0; r < 3; ++r)
    for (Index c = 0; c < 3; ++c) {
      CAPTURE(r);
      CAPTURE(c);
      CHECK(got(r, c) ==
            doctest::Approx(wanted[static_cast<std::size_t>(3 * r + c)]).epsilon(1e-7));
    }
}
}  // namespace

TEST_CASE("a crop is stretched to the view, each axis by its own factor") {
  const ViewMap map = ViewMap::crop_resize({10, 20, 5, 40}, 100, 80);
  check_point(map({10, 20}), 0, 0);
  check_point(map({15, 60}), 100, 80);
  check_point(map({12.5, 30}), 50, 20);
  check_map(ViewMap::resize(224, 224, 384, 112), {384. / 224, 0, 0, 0, .5, 0, 0, 0, 1});
}

TEST_CASE("flips mirror the edges of an image") {
  check_point(ViewMap::flip_horizontal(96)({3, 10}), 3, 86);
  check_point(ViewMap::flip_vertical(64)({3, 10}), 61, 10);
  CHECK(ViewMap::flip_vertical(64) * ViewMap::flip_vertical(64) == ViewMap{});
}

TEST_CASE("a rotation turns about the centre, of images that are not square too") {
  check_map(ViewMap::rotation(30, 64, 64),
            {.8660254, -.5, 20.287187, .5, .8660254, -11.712813, 0, 0, 1});
  check_point(ViewMap::rotation(77, 40, 60)({20, 30}), 20, 30);
  // What out samples at in(x cos - y sin, x sin + y cos) is where in goes: 90 degrees, (0, -10) to (10, 0).
  check_point(ViewMap::rotation(90, 40, 60)({20, 20}), 30, 30);
  check_map(ViewMap::rotation(-25, 40, 60) * ViewMap::rotation(25, 40, 60), ViewMap{}.m);
}

TEST_CASE("shears keep the sampled pixel in place, translations move content up and left") {
  // out(row 7, column 3) is sampled at in(row 7, column 3 + 0.3 * 7): centres of pixels.
  check_point(ViewMap::shear_x(0.3)({7.5, 3.5 + 0.3 * 7}), 7.5, 3.5);
  check_point(ViewMap::shear_y(-0.2)({7.5 - 0.2 * 3, 3.5}), 7.5, 3.5);
  check_point(ViewMap::translation(5, -2)({20, 20}), 15, 22);
}

TEST_CASE("operations compose on the left, and the inverse leads back") {
  const ImageView view = ImageView::crop({11, 5, 40, 52}, 96, 96)
                             .then(ViewMap::flip_horizontal(96))
                             .then(ViewMap::shear_y(-0.15));
  const ViewMap shear = ViewMap::shear_y(-0.15);
  const ViewMap flip = ViewMap::flip_horizontal(96);
  const ViewMap crop = ViewMap::crop_resize({11, 5, 40, 52}, 96, 96);
  check_map(view.map, (shear * flip * crop).m);
  const ImagePoint p{17, 23};
  const ImagePoint there = shear(flip(crop(p)));
  check_point(view.map(p), there.y, there.x);
  check_point(view.map.inverse()(there), 17, 23);
  // One with perspective, whose third coordinate is not 1.
  const ViewMap lens{{1, .2, 3, -.1, 2, 1, .01, .02, 1}};
  check_map(lens.inverse() * lens, ViewMap{}.m);
  const double w = .01 * 4 + .02 * 5 + 1;
  check_point(lens({4, 5}), (4 + .2 * 5 + 3) / w, (-.1 * 4 + 2 * 5 + 1) / w);
  check_point(lens.inverse()(lens({4, 5})), 4, 5);
}

TEST_CASE("a map without an inverse and a crop of nothing are refused") {
  CHECK_THROWS_WITH_AS(
      (ViewMap{{1, 2, 0, 2, 4, 0, 0, 0, 1}}.inverse()),
      "moxie::ViewMap::inverse: the determinant is 0, expected a finite number that is not 0",
      config_error);
  CHECK_THROWS_WITH_AS(
      ViewMap::crop_resize({0, 0, 0, 5}, 8, 8),
      "moxie::ViewMap::crop_resize: a crop of 0 x 5 resized to 8 x 8, expected sizes above 0",
      config_error);
  CHECK_THROWS_AS(ViewMap::resize(8, 8, 8, std::nan("")), config_error);
}
