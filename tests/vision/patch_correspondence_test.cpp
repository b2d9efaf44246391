#include "moxie/vision/patch_correspondence.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "moxie/testing/law_report.hpp"
#include "support/vectors.hpp"

using namespace moxie;

namespace {

using Table = std::vector<std::int32_t>;

ImageView whole(Index n) {
  return ImageView::crop({0, 0, static_cast<double>(n), static_cast<double>(n)}, n, n);
}

/// One operation, and how a point of the image that comes out came in: worked out by the way images
/// are sampled, without matrices.
struct Operation {
  enum Kind { flip_h, flip_v, rotate, shear_x, shear_y, translate, kinds };
  Kind kind;
  double a = 0, b = 0;

  ViewMap map(double height, double width) const {
    switch (kind) {
      case flip_h:
        return ViewMap::flip_horizontal(width);
      case flip_v:
        return ViewMap::flip_vertical(height);
      case rotate:
        return ViewMap::rotation(a, height, width);
      case shear_x:
        return ViewMap::shear_x(a);
      case shear_y:
        return ViewMap::shear_y(a);
      default:
        return ViewMap::translation(a, b);
    }
  }
  ImagePoint came_from(ImagePoint p, double height, double width) const {
    const double y = p.y - height / 2;
    const double x = p.x - width / 2;
    const double angle = a * std::acos(-1.0) / 180;
    switch (kind) {
      case flip_h:
        return {p.y, width - p.x};
      case flip_v:
        return {height - p.y, p.x};
      case rotate:
        return {x * std::sin(angle) + y * std::cos(angle) + height / 2,
                x * std::cos(angle) - y * std::sin(angle) + width / 2};
      case shear_x:
        return {p.y, p.x + a * (p.y - .5)};
      case shear_y:
        return {p.y + a * (p.x - .5), p.x};
      default:
        return {p.y + a, p.x + b};
    }
  }
};

struct RandomView {
  ImageView view;
  std::vector<Operation> operations;

  RandomView(testing::detail::Draw& draw, Index height, Index width) {
    const auto real = [&](double low, double high) { return low + (high - low) * draw.uniform(); };
    const double h = draw.chance(.3) ? static_cast<double>(draw.from(1, 60)) : real(1, 60);
    const double w = draw.chance(.3) ? static_cast<double>(draw.from(1, 60)) : real(1, 60);
    view = ImageView::crop({real(0, 40), real(0, 40), h, w}, height, width);
    for (Index n = draw.from(0, 4); n > 0; --n) {
      const auto kind = static_cast<Operation::Kind>(draw.from(0, Operation::kinds - 1));
      Operation o{kind};
      if (kind == Operation::rotate) o.a = real(-180, 180);
      if (kind == Operation::shear_x || kind == Operation::shear_y) o.a = real(-.5, .5);
      if (kind == Operation::translate) {
        o.a = draw.chance(.5) ? static_cast<double>(draw.from(-20, 20)) : real(-20, 20);
        o.b = draw.chance(.5) ? static_cast<double>(draw.from(-20, 20)) : real(-20, 20);
      }
      operations.push_back(o);
      view.then(o.map(static_cast<double>(height), static_cast<double>(width)));
    }
  }
  ImagePoint source_of(ImagePoint p) const {
    const auto height = static_cast<double>(view.height);
    const auto width = static_cast<double>(view.width);
    for (auto o = operations.rbegin(); o != operations.rend(); ++o)
      p = o->came_from(p, height, width);
    return {view.source.y + p.y / height * view.source.height,
            view.source.x + p.x / width * view.source.width};
  }
};

/// Where a view shows a point of the source: neither an inverse nor a product of maps, which is what is
/// tested.
ImagePoint shown_at(const ViewMap& m, ImagePoint p) {
  return {m(0, 0) * p.y + m(0, 1) * p.x + m(0, 2), m(1, 0) * p.y + m(1, 1) * p.x + m(1, 2)};
}
/// How far inside [low, low + size) a number is; negative outside.
double inside(double v, double low, double size) { return std::min(v - low, low + size - v); }

}  // namespace

TEST_CASE("partners are those of a search over all patches, in random compositions") {
  testing::detail::Draw draw(7);
  Index matched = 0;
  Index unmatched = 0;
  Index padding = 0;
  Index undecided = 0;
  for (Index n = 0; n < 4000; ++n) {
    CAPTURE(n);
    const Index patch = draw.from(1, 9);
    const RandomView a(draw, patch * draw.from(1, 7), patch * draw.from(1, 7));
    const RandomView b(draw, patch * draw.from(1, 7), patch * draw.from(1, 7));
    const Table got = patch_correspondence(a.view, b.view, patch);
    const Table strict = patch_correspondence(a.view, b.view, patch, PatchValidity::content);
    const Index cols_a = a.view.width / patch;
    const Index cols_b = b.view.width / patch;
    const auto size = static_cast<double>(patch);
    REQUIRE(static_cast<Index>(got.size()) == a.view.height / patch * cols_a);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const auto at = static_cast<Index>(i);
      const ImagePoint source = a.source_of({(static_cast<double>(at / cols_a) + .5) * size,
                                             (static_cast<double>(at % cols_a) + .5) * size});
      const ImagePoint there = shown_at(b.view.map, source);
      std::int32_t wanted = -1;
      double margin = 1e300;  // to the next edge: closer than rounding, either side is right
      for (Index j = 0; j < b.view.height / patch * cols_b; ++j) {
        const double in = std::min(inside(there.y, static_cast<double>(j / cols_b) * size, size),
                                   inside(there.x, static_cast<double>(j % cols_b) * size, size));
        if (in >= 0) wanted = static_cast<std::int32_t>(j);
        margin = std::min(margin, std::abs(in));
      }
      if (margin < 1e-9) {
        ++undecided;
        continue;
      }
      CHECK(got[i] == wanted);
      const auto depth = [&](const ImageBox& box) {
        return std::min(inside(source.y, box.y, box.height), inside(source.x, box.x, box.width));
      };
      const double content = std::min(depth(a.view.source), depth(b.view.source));
      if (std::abs(content) < 1e-9) continue;
      CHECK(strict[i] == (content > 0 ? wanted : -1));
      (wanted >= 0 ? matched : unmatched) += 1;
      if (wanted >= 0 && content < 0) ++padding;
    }
  }
  CHECK(matched > 5000);
  CHECK(unmatched > 10000);
  CHECK(padding > 1000);
  CHECK(undecided < 200);
}

TEST_CASE("partners of four by four patches, worked out by hand") {
  const ImageView full = whole(64);
  SUBCASE("a quarter crop meets each patch of the whole twice an axis") {
    const Table got = patch_correspondence(ImageView::crop({0, 0, 32, 32}, 64, 64), full, 16);
    for (std::int32_t r = 0; r < 4; ++r)
      for (std::int32_t c = 0; c < 4; ++c)
        CHECK(got[static_cast<std::size_t>(4 * r + c)] == r / 2 * 4 + c / 2);
  }
  SUBCASE("a flip meets the mirrored column") {
    const Table got = patch_correspondence(full, whole(64).then(ViewMap::flip_horizontal(64)), 16);
    for (std::int32_t r = 0; r < 4; ++r)
      for (std::int32_t c = 0; c < 4; ++c)
        CHECK(got[static_cast<std::size_t>(4 * r + c)] == 4 * r + 3 - c);
  }
  SUBCASE("a translation by a patch moves a row up, and padding has no partner") {
    const ImageView up = whole(64).then(ViewMap::translation(16, 0));
    CHECK(patch_correspondence(full, up, 16) ==
          Table{-1, -1, -1, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
    // From the padded view, the last row shows padding: its point lies below the other view.
    CHECK(patch_correspondence(up, full, 16) ==
          Table{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, -1, -1, -1, -1});
  }
  SUBCASE("a rotation by 30 degrees") {
    CHECK(patch_correspondence(full, whole(64).then(ViewMap::rotation(30, 64, 64)), 16) ==
          Table{-1, 0, 1, -1, 8, 5, 6, 3, 12, 9, 10, 7, -1, 14, 15, -1});
  }
  SUBCASE("an edge belongs to the patch that begins there") {
    // Centres 8, 24, ... move to 0, 16, ...: the first lies on edge 0.
    CHECK(patch_correspondence(full, whole(64).then(ViewMap::translation(8, 8)), 16) ==
          Table{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
    // To 16, 32, ...: the last row lies on the lower edge of the view, outside.
    CHECK(patch_correspondence(full, whole(64).then(ViewMap::translation(-8, 0)), 16) ==
          Table{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, -1, -1, -1, -1});
  }
}

TEST_CASE("content leaves out what was padded in by both views alike") {
  // Both views crop the right half and move it right by half their width: their left half is padding, and
  // lines up.
  const ImageView half =
      ImageView::crop({0, 32, 64, 32}, 64, 64).then(ViewMap::translation(0, -32));
  CHECK(patch_correspondence(half, half, 32) == Table{0, 1, 2, 3});
  CHECK(patch_correspondence(half, half, 32, PatchValidity::content) == Table{-1, 1, -1, 3});
  // A view that shows more than the other cropped: padding there, content here.
  CHECK(patch_correspondence(half, whole(64), 32) == Table{0, 1, 2, 3});
  CHECK(patch_correspondence(half, whole(64), 32, PatchValidity::content) == Table{-1, 1, -1, 3});
  // The whole's columns 16 and 48 lie at 0, which half pads, and at 64, outside.
  CHECK(patch_correspondence(whole(64), half, 32) == Table{0, -1, 2, -1});
  CHECK(patch_correspondence(whole(64), half, 32, PatchValidity::content) == Table{-1, -1, -1, -1});
}

TEST_CASE("views may differ in their grids") {
  const ImageView wide = ImageView::crop({0, 0, 32, 64}, 32, 64);
  const ImageView tall = ImageView::crop({0, 0, 32, 64}, 64, 16);
  CHECK(patch_correspondence(wide, tall, 16) == Table{1, 1, 1, 1, 3, 3, 3, 3});
}

TEST_CASE("the strictly smaller crop comes first, and the second view of equals") {
  const ImageView small = ImageView::crop({0, 0, 10, 20}, 32, 32);
  const ImageView large = ImageView::crop({0, 0, 20, 20}, 32, 32);
  const ImageView equal = ImageView::crop({5, 5, 20, 10}, 32, 32);
  CHECK(has_smaller_crop(small, large));
  CHECK_FALSE(has_smaller_crop(large, small));
  CHECK_FALSE(has_smaller_crop(small, equal));
}

TEST_CASE("patches that do not fit, and a table of another size, are refused") {
  CHECK_THROWS_WITH_AS(
      patch_correspondence(whole(64), whole(40), 16),
      "moxie::patch_correspondence: b is 40 x 40 pixels, expected multiples of the patch of 16",
      shape_error);
  CHECK_THROWS_WITH_AS(
      patch_correspondence(whole(64), whole(64), 0),
      "moxie::patch_correspondence: a is 64 x 64 pixels, expected multiples of the patch of 0",
      shape_error);
  Table short_one(3);
  CHECK_THROWS_WITH_AS(
      patch_correspondence(whole(64), whole(64), 16, PatchValidity::none, short_one),
      "moxie::patch_correspondence: partners has 3 entries, expected 16, one for each patch of a",
      shape_error);
  ImageView flat = whole(64);
  flat.map = ViewMap{{1, 1, 0, 1, 1, 0, 0, 0, 1}};
  CHECK_THROWS_AS(patch_correspondence(flat, whole(64), 16), config_error);
}

TEST_CASE("the golden vector's maps and partners") {
  const auto vector = test::read_vector("16_patch_partners");
  const auto& in = vector.at("inputs");
  const double n = in.at("size");
  const auto view_of = [&](const nlohmann::json& operations) {
    const auto& c = operations.at(0);
    ImageView view = ImageView::crop({c[1], c[2], c[3], c[4]}, in.at("size"), in.at("size"));
    for (std::size_t i = 1; i < operations.size(); ++i) {
      const auto& o = operations[i];
      const std::string name = o[0];
      if (name == "hflip") view.then(ViewMap::flip_horizontal(n));
      if (name == "rotate") view.then(ViewMap::rotation(o[1], n, n));
      if (name == "shear_y") view.then(ViewMap::shear_y(o[1]));
      if (name == "translate") view.then(ViewMap::translation(o[1], o[2]));
    }
    return view;
  };
  for (const char* name : {"a", "b"}) {
    const ImageView one = view_of(in.at(name).at("view1"));
    const ImageView two = view_of(in.at(name).at("view2"));
    const auto& expected = vector.at("expected").at(name);
    const auto check = [&](const ViewMap& got, const char* key) {
      const auto wanted = test::flat<double>(expected.at(key));
      for (std::size_t i = 0; i < 9; ++i)
        CHECK(got.m[i] == doctest::Approx(wanted[i]).epsilon(1e-12));
    };
    check(one.map, "t_view1");
    check(two.map, "t_view2");
    check(two.map * one.map.inverse(), "r");
    CHECK(patch_correspondence(one, two, in.at("patch")) ==
          test::flat<std::int32_t>(expected.at("partners")));
  }
}
