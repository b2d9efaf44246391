// Two views of an image: where their pixels come from, and how they lie in a batch.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <set>
#include <vector>

#include "fixtures.hpp"
#include "moxie/vision/patch_correspondence.hpp"
#include "vmoe/data/batch.hpp"
#include "vmoe/data/rand_augment.hpp"
#include "vmoe/data/views.hpp"
#include "vmoe/data/warp.hpp"

namespace views_test {

using fixtures::Containing;
using moxie::ImagePoint;
using moxie::ImageView;
using moxie::Random;
using moxie::ViewMap;
using vmoe::Batches;
using vmoe::BatchOptions;
using vmoe::Draws;
using vmoe::ImageSet;
using vmoe::ImageShape;
using vmoe::Index;
using vmoe::Normalization;
using vmoe::Operation;
using vmoe::RandAugment;
using vmoe::to_size;
using vmoe::ViewRecipe;

namespace {

constexpr int step = 6;  // 40 pixels and more in a byte
constexpr std::uint8_t here = 200;

/// Each pixel says where it is: (step * y, step * x, here).
std::vector<std::uint8_t> ramp(const ImageShape& shape) {
  std::vector<std::uint8_t> values;
  for (Index y = 0; y < shape.height; ++y)
    for (Index x = 0; x < shape.width; ++x) {
      values.push_back(static_cast<std::uint8_t>(step * y));
      values.push_back(static_cast<std::uint8_t>(step * x));
      values.push_back(here);
    }
  return values;
}
/// The centre of the pixel that a value of the ramp names.
double place(double value) { return value / step + 0.5; }

/// Inputs are the bytes.
std::vector<float> bytes_table() {
  return vmoe::normalization_table({{0, 0, 0}, {1.0 / 255, 1.0 / 255, 1.0 / 255}}, 3);
}

ImageSet make_set(Index count, const ImageShape& shape) {
  ImageSet set{.count = count, .shape = shape, .pixels = {}, .labels = {}};
  for (Index i = 0; i < count; ++i) {
    for (Index k = 0; k < shape.values(); ++k)
      set.pixels.push_back(static_cast<std::uint8_t>(37 * i + k * k % 101));
    set.labels.push_back(static_cast<std::int32_t>(i % 3));
  }
  return set;
}

struct Filled {
  std::vector<float> images, targets;
  std::vector<std::int32_t> labels;
  std::vector<ImageView> views;

  friend bool operator==(const Filled&, const Filled&) = default;
};
/// One batch, filled in parts of `part` rows, the last part first.
Filled fill(const Batches& batches, std::uint64_t epoch, Index batch, Index part) {
  const Index rows = batches.rows(batch);
  Filled out{std::vector<float>(to_size(rows * batches.row_values())),
             std::vector<float>(to_size(rows * 3)), std::vector<std::int32_t>(to_size(rows)),
             std::vector<ImageView>(to_size(rows))};
  const Batches::Epoch order = batches.epoch(epoch);
  for (Index first = (rows - 1) / part * part; first >= 0; first -= part)
    batches.fill(order, batch, first, std::min(first + part, rows),
                 {out.images, out.targets, out.labels, out.views});
  return out;
}

constexpr Operation moving[] = {Operation::rotate, Operation::shear_x, Operation::shear_y,
                                Operation::translate_x, Operation::translate_y};

}  // namespace

TEST_CASE("pixels of a view come from where its map says") {
  const ImageShape shape{28, 36, 3};
  const std::vector<std::uint8_t> image = ramp(shape);
  const std::vector<float> table = bytes_table();
  std::vector<float> out(to_size(shape.values()));
  for (const auto kind :
       {ViewRecipe::Kind::light, ViewRecipe::Kind::crop, ViewRecipe::Kind::paper}) {
    // Crops that shrink or enlarge are interpolated: half a pixel at their borders.
    const bool light = kind == ViewRecipe::Kind::light;
    const ViewRecipe recipe{
        .kind = kind, .augmentation = {.crop_padding = 5}, .rand_augment = {.count = 0}};
    std::set<double> mirrored;
    for (std::uint64_t i = 0; i < 40; ++i) {
      const ImageView view = vmoe::make_view(recipe, Random(1, 2, 3), i, i % 2, image.data(), shape,
                                             table, 3, out.data());
      CHECK(view.height == 28);
      CHECK(view.width == 36);
      mirrored.insert(view.map(1, 1) > 0 ? 1 : -1);
      const ViewMap back = view.map.inverse();
      const double scale =
          std::max({1.0, std::abs(back(0, 0)), std::abs(back(1, 1))});  // of the box to the view
      int seen = 0;
      for (Index y = 0; y < shape.height; ++y)
        for (Index x = 0; x < shape.width; ++x) {
          const float* pixel = out.data() + (y * shape.width + x) * 3;
          const ImagePoint from =
              back({static_cast<double>(y) + 0.5, static_cast<double>(x) + 0.5});
          CHECK(view.source.contains(from) == (std::lround(pixel[2]) == here));
          if (!view.source.contains(from)) continue;
          ++seen;
          const double by = light ? 1e-3 : 0.5 * scale + 0.5 / step;
          CHECK(std::abs(place(pixel[0]) - from.y) <= by);
          CHECK(std::abs(place(pixel[1]) - from.x) <= by);
        }
      CHECK(seen > 0);
    }
    CHECK(mirrored.size() == 2);
  }
}

TEST_CASE("without a flip, a crop's interior is interpolated where it lies") {
  const ImageShape shape{40, 40, 3};
  const std::vector<std::uint8_t> image = ramp(shape);
  std::vector<std::uint8_t> out(image.size());
  const moxie::ImageBox box{4, 10, 20, 25};
  vmoe::crop_resize(image.data(), box, {out, shape});
  const ViewMap back = ViewMap::crop_resize(box, 40, 40).inverse();
  for (Index y = 1; y < 39; ++y)
    for (Index x = 1; x < 39; ++x) {
      const ImagePoint from = back({static_cast<double>(y) + 0.5, static_cast<double>(x) + 0.5});
      const std::size_t at = to_size((y * 40 + x) * 3);
      CHECK(std::abs(place(out[at]) - from.y) <= 0.5 / step + 1e-9);
      CHECK(std::abs(place(out[at + 1]) - from.x) <= 0.5 / step + 1e-9);
    }
  // The whole image stays.
  vmoe::crop_resize(image.data(), {0, 0, 40, 40}, {out, shape});
  CHECK(out == image);
}

TEST_CASE("operations of RandAugment that move move by their map, and fill with 128") {
  const ImageShape shape{32, 40, 3};
  const RandAugment augment;
  Draws draws(Random(0, 0, 0), 0, 0);
  for (const Operation operation : moving)
    for (const bool negative : {false, true}) {
      CAPTURE(static_cast<int>(operation));
      std::vector<std::uint8_t> image = ramp(shape);
      const ViewMap map = augment.apply(operation, negative, {image, shape}, draws);
      const ViewMap back = map.inverse();
      int padded = 0;
      for (Index y = 0; y < shape.height; ++y)
        for (Index x = 0; x < shape.width; ++x) {
          const std::uint8_t* pixel = image.data() + (y * shape.width + x) * 3;
          const ImagePoint from =
              back({static_cast<double>(y) + 0.5, static_cast<double>(x) + 0.5});
          const bool inside = from.y >= 0 && from.y < 32 && from.x >= 0 && from.x < 40;
          CHECK(pixel[2] == (inside ? here : 128));
          if (inside) {
            CHECK(std::abs(place(pixel[0]) - from.y) <= 0.5);
            CHECK(std::abs(place(pixel[1]) - from.x) <= 0.5);
          } else {
            ++padded;
            CHECK(pixel[0] == 128);
          }
        }
      CHECK(padded > 0);
    }
}

TEST_CASE("magnitude 10 is that of the paper at 224 pixels") {
  const ImageShape shape{224, 224, 1};
  std::vector<std::uint8_t> image(to_size(shape.values()));
  Draws draws(Random(0, 0, 0), 0, 0);
  const auto map = [&](Operation operation, bool negative) {
    return RandAugment{}.apply(operation, negative, {image, shape}, draws);
  };
  CHECK(map(Operation::rotate, false) == ViewMap::rotation(30, 224, 224));
  CHECK(map(Operation::rotate, true) == ViewMap::rotation(-30, 224, 224));
  CHECK(map(Operation::shear_x, false)(1, 0) == doctest::Approx(-0.3));
  CHECK(map(Operation::shear_y, true)(0, 1) == doctest::Approx(0.3));
  CHECK(map(Operation::translate_x, false) == ViewMap::translation(0, 100));
  CHECK(map(Operation::translate_y, true) == ViewMap::translation(-100, 0));
  image.assign(image.size(), 7);
  CHECK(map(Operation::cutout, false) == ViewMap());
  int cut = 0;
  for (const std::uint8_t v : image) cut += v == 128 ? 1 : 0;
  CHECK(cut >= 40 * 40);
  CHECK(cut <= 80 * 80);
  // An eighth of the size: a translation of 14 pixels, half the strength: 7.
  const ImageShape small{32, 32, 1};
  image.resize(to_size(small.values()));
  CHECK(RandAugment{}.apply(Operation::translate_x, false, {image, small}, draws) ==
        ViewMap::translation(0, 14));
  CHECK(RandAugment{.magnitude = 5}.apply(Operation::translate_x, false, {image, small}, draws) ==
        ViewMap::translation(0, 7));
}

TEST_CASE("operations on colours have the values of their definitions and move nothing") {
  Draws draws(Random(0, 0, 0), 0, 0);
  const auto apply = [&](Operation operation, std::vector<std::uint8_t> v, const ImageShape& s) {
    CHECK(RandAugment{}.apply(operation, false, {v, s}, draws) == ViewMap());
    return v;
  };
  using V = std::vector<std::uint8_t>;
  const ImageShape grey{1, 4, 1};
  const V four{10, 60, 110, 210};
  CHECK(apply(Operation::identity, four, grey) == four);
  CHECK(apply(Operation::auto_contrast, four, grey) == V{0, 63, 127, 255});
  CHECK(apply(Operation::auto_contrast, V(4, 9), grey) == V(4, 9));
  CHECK(apply(Operation::invert, four, grey) == V{245, 195, 145, 45});
  CHECK(apply(Operation::posterize, four, grey) == V{0, 48, 96, 208});
  CHECK(apply(Operation::solarize, four, grey) == four);  // by its threshold of 256
  CHECK(apply(Operation::solarize_add, four, grey) == V{120, 170, 220, 210});
  CHECK(apply(Operation::brightness, four, grey) == V{19, 114, 209, 255});
  // The mean is 97.5, rounded to 98: 98 + 1.9 (v - 98), cut off and rounded down.
  CHECK(apply(Operation::contrast, four, grey) == V{0, 25, 120, 255});
  CHECK(apply(Operation::color, four, grey) == four);
  // Grey of (100, 50, 200) is 0.2989 * 100 + 0.587 * 50 + 0.114 * 200 = 82.04: 82.
  CHECK(apply(Operation::color, {100, 50, 200}, {1, 1, 3}) == V{116, 21, 255});
  // 8 + 5 * 26 over 13 is 10.6, of which 10: 10 + 1.9 * 16.
  const V spot{1, 1, 1, 1, 26, 1, 1, 1, 1};
  CHECK(apply(Operation::sharpness, spot, {3, 3, 1}) == V{1, 1, 1, 1, 40, 1, 1, 1, 1});
  // 510 values: half are 40, a quarter 50, the last quarter 60: a step of (510 - 127) / 255 = 1.
  V many(510, 40);
  for (std::size_t i = 255; i < 510; ++i) many[i] = i < 383 ? 50 : 60;
  const V flat = apply(Operation::equalize, many, {1, 510, 1});
  CHECK(flat[0] == 0);
  CHECK(flat[300] == 255);
  CHECK(apply(Operation::equalize, four, grey) == four);  // too few values: a step of 0
}

TEST_CASE("RandAugment draws its operations one after the other and composes their maps") {
  const ImageShape shape{16, 16, 3};
  std::set<int> drawn;
  for (std::uint64_t i = 0; i < 200; ++i) {
    std::vector<std::uint8_t> image = ramp(shape);
    std::vector<std::uint8_t> again = image;
    Draws draws(Random(5, 0, 0), i, 1);
    Draws same(Random(5, 0, 0), i, 1);
    const ViewMap map = RandAugment{.count = 3}({image, shape}, draws);
    ViewMap wanted;
    for (int k = 0; k < 3; ++k) {
      const auto operation = static_cast<Operation>(same.below(vmoe::operations));
      drawn.insert(static_cast<int>(operation));
      const bool negative = same.coin();
      wanted = RandAugment{}.apply(operation, negative, {again, shape}, same) * wanted;
    }
    CHECK(map == wanted);
    CHECK(image == again);
  }
  CHECK(drawn.size() == 17);
}

TEST_CASE("crops have the area and the aspect that were asked for") {
  const ImageShape shape{32, 48, 3};
  Draws draws(Random(1, 1, 1), 0, 0);
  double least = 1;
  double most = 0;
  for (int i = 0; i < 300; ++i) {
    const moxie::ImageBox box = vmoe::draw_crop(0.1, 0.9, shape, draws);
    const double share = box.area() / (32 * 48);
    CHECK(share > 0.08);
    CHECK(share < 0.93);
    CHECK(box.y >= 0);
    CHECK(box.x >= 0);
    CHECK(box.y + box.height <= 32);
    CHECK(box.x + box.width <= 48);
    CHECK(box.width / box.height < 1.5);
    CHECK(box.width / box.height > 0.66);
    least = std::min(least, share);
    most = std::max(most, share);
  }
  CHECK(least < 0.2);
  CHECK(most > 0.6);
  // No box of that area is nearly square in so flat an image.
  CHECK(vmoe::draw_crop(0.9, 1, {4, 400, 1}, draws) == moxie::ImageBox{0, 0, 4, 400});
}

TEST_CASE("a batch of views is all first views and then all second ones, whatever fills it") {
  const ImageShape shape{8, 8, 3};
  const ImageSet set = make_set(9, shape);
  const Normalization normalization{{0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}};
  for (const auto kind :
       {ViewRecipe::Kind::light, ViewRecipe::Kind::crop, ViewRecipe::Kind::paper}) {
    const BatchOptions options{
        .batch_size = 4,
        .seed = 11,
        .label_smoothing = 0.1,
        .views = ViewRecipe{.kind = kind, .augmentation = {.crop_padding = 2}, .jitter = 0.2}};
    const Batches batches(set, 3, normalization, options, Batches::Use::train);
    CHECK(batches.per_epoch() == 2);
    CHECK(batches.views() == 2);
    CHECK(batches.images(0) == 4);
    CHECK(batches.rows(0) == 8);
    const Filled all = fill(batches, 3, 1, 8);
    CHECK(fill(batches, 3, 1, 1) == all);
    CHECK(fill(batches, 3, 1, 3) == all);
    CHECK(fill(Batches(set, 3, normalization, options, Batches::Use::train), 3, 1, 5) == all);
    CHECK(fill(batches, 2, 1, 8).images != all.images);
    CHECK(fill(batches, 3, 0, 8).images != all.images);
    const Batches::Epoch epoch = batches.epoch(3);
    for (std::size_t i = 0; i < 4; ++i) {
      CHECK(all.labels[i] == all.labels[i + 4]);
      CHECK(all.labels[i] == set.labels[to_size(epoch.order[4 + i])]);
      CHECK(std::equal(all.targets.begin() + static_cast<Index>(3 * i),
                       all.targets.begin() + static_cast<Index>(3 * i + 3),
                       all.targets.begin() + static_cast<Index>(3 * (i + 4))));
      CHECK_FALSE(all.views[i] == all.views[i + 4]);
    }
    BatchOptions other = options;
    other.seed = 12;
    CHECK(fill(Batches(set, 3, normalization, other, Batches::Use::train), 3, 1, 8).images !=
          all.images);
  }
}

TEST_CASE("two views are refused beside mixup, and jitter beyond its range") {
  const ImageSet set = make_set(4, {8, 8, 3});
  const auto error = [&](const BatchOptions& options) {
    try {
      const Batches batches(set, 3, vmoe::measure_normalization(set), options, Batches::Use::train);
    } catch (const moxie::config_error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error({.batch_size = 2, .views = ViewRecipe{}}).empty());
  CHECK(error({.batch_size = 2, .mixup = {.concentration = 0.2}, .views = ViewRecipe{}}) ==
        Containing("expected 0 with two views"));
  CHECK(error({.batch_size = 2, .views = ViewRecipe{.jitter = 1.5}}) ==
        Containing("jitter is 1.5"));
  CHECK(error({.batch_size = 2, .views = ViewRecipe{.augmentation = {.crop_padding = 8}}}) ==
        Containing("crop_padding is 8"));
  CHECK_THROWS_WITH_AS((void)vmoe::view_kind("dark"),
                       "vmoe: views are 'dark', expected light, crop or paper",
                       moxie::config_error);
}

}  // namespace views_test
