#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "fixtures.hpp"
#include "moxie/core/error.hpp"
#include "vmoe/data/batch.hpp"
#include "vmoe/data/shuffle.hpp"

using doctest::Approx;
using doctest::Contains;
using fixtures::Containing;
using vmoe::Batches;
using vmoe::BatchOptions;
using vmoe::ImageSet;
using vmoe::Index;
using vmoe::Mixup;
using vmoe::Normalization;
using vmoe::to_size;

namespace {

/// `count` images; value k of image i is (31 i + 7 k) mod 256, its label i mod 3.
ImageSet make_set(Index count, vmoe::ImageShape shape) {
  ImageSet set;
  set.count = count;
  set.shape = shape;
  for (Index i = 0; i < count; ++i) {
    for (Index k = 0; k < shape.values(); ++k)
      set.pixels.push_back(static_cast<std::uint8_t>(31 * i + 7 * k));
    set.labels.push_back(static_cast<std::int32_t>(i % 3));
  }
  return set;
}

/// Inputs are v / 255.
Normalization plain(Index channels) {
  return {std::vector<double>(to_size(channels), 0.0), std::vector<double>(to_size(channels), 1.0)};
}

BatchOptions unchanged(Index batch_size) {
  return {.batch_size = batch_size, .augmentation = {.crop_padding = 0, .flip = false}};
}

struct Filled {
  std::vector<float> images;
  std::vector<float> targets;
  std::vector<std::int32_t> labels;

  friend bool operator==(const Filled&, const Filled&) = default;
};

/// One batch, filled in parts of `part` rows, the last part first.
Filled fill(const Batches& batches, const Batches::Epoch& epoch, Index batch, Index part) {
  const Index rows = batches.rows(batch);
  Filled out{std::vector<float>(to_size(rows * batches.row_values()), -9.0F),
             std::vector<float>(to_size(rows * 3), -9.0F),
             std::vector<std::int32_t>(to_size(rows))};
  for (Index first = (rows - 1) / part * part; first >= 0; first -= part)
    batches.fill(epoch, batch, first, (std::min)(first + part, rows),
                 {out.images, out.targets, out.labels});
  return out;
}

}  // namespace

TEST_CASE("shuffled gives a permutation that its key decides") {
  const moxie::Random random(3, 1, 4);
  std::vector<std::int32_t> order = vmoe::shuffled(1000, random);
  CHECK(order == vmoe::shuffled(1000, random));
  CHECK(order != vmoe::shuffled(1000, moxie::Random(3, 2, 4)));
  CHECK(!std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (std::int32_t i = 0; i < 1000; ++i) CHECK(order[to_size(i)] == i);
  CHECK(vmoe::shuffled(0, random).empty());
  CHECK(vmoe::shuffled(1, random) == std::vector<std::int32_t>{0});
}

TEST_CASE("shuffled gives every order of three equally often") {
  int counts[27] = {};
  for (std::uint64_t seed = 0; seed < 6000; ++seed) {
    const auto order = vmoe::shuffled(3, moxie::Random(seed, 0, 0));
    ++counts[order[0] * 9 + order[1] * 3 + order[2]];
  }
  for (const int count : counts)
    if (count != 0) CHECK(std::abs(count - 1000) < 120);  // 4 standard deviations
  CHECK(std::count(std::begin(counts), std::end(counts), 0) == 21);
}

TEST_CASE("normalisation is measured by channel") {
  ImageSet set;
  set.count = 2;
  set.shape = {1, 2, 2};
  set.pixels = {0, 10, 0, 10, 255, 10, 255, 10};
  const Normalization n = vmoe::measure_normalization(set);
  CHECK(n.mean[0] == Approx(0.5).epsilon(1e-15));
  CHECK(n.std_dev[0] == Approx(0.5).epsilon(1e-15));
  CHECK(n.mean[1] == Approx(10.0 / 255).epsilon(1e-15));
  CHECK(n.std_dev[1] == 1);  // nothing to scale
  CHECK_THROWS_WITH_AS(vmoe::measure_normalization(ImageSet{}),
                       "vmoe::measure_normalization: 0 images came, expected at least 1",
                       moxie::config_error);
}

TEST_CASE("the normalisation table holds the rounded formula") {
  const Normalization n{{0.25, 0.5}, {0.5, 2.0}};
  const std::vector<float> table = vmoe::normalization_table(n, 2);
  CHECK(table.size() == 512);
  CHECK(table[0] == -0.5F);
  CHECK(table[255] == 1.5F);
  CHECK(table[256 + 51] == static_cast<float>((0.2 - 0.5) / 2));
  CHECK_THROWS_WITH_AS(vmoe::normalization_table(n, 3),
                       Contains("2 means and 2 deviations came, expected 3 of each"),
                       moxie::config_error);
  CHECK_THROWS_WITH_AS(vmoe::normalization_table({{0.0}, {0.0}}, 1),
                       Contains("channel 0 has mean 0 and deviation 0, expected finite and > 0"),
                       moxie::config_error);
}

TEST_CASE("a window moves and mirrors an image") {
  const std::vector<std::uint8_t> image = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::vector<float> table(256);
  std::iota(table.begin(), table.end(), 0.0F);
  const auto seen = [&](const vmoe::Window& window) {
    std::vector<float> out(9, -1.0F);
    vmoe::render(image.data(), {3, 3, 1}, window, table, 1, out.data());
    return out;
  };
  using Values = std::vector<float>;
  CHECK(seen({0, 0, false}) == Values{1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(seen({0, 0, true}) == Values{3, 2, 1, 6, 5, 4, 9, 8, 7});
  CHECK(seen({1, 0, false}) == Values{4, 5, 6, 7, 8, 9, 0, 0, 0});
  CHECK(seen({-1, 1, false}) == Values{0, 0, 0, 2, 3, 0, 5, 6, 0});
  CHECK(seen({-1, 1, true}) == Values{0, 0, 0, 0, 3, 2, 0, 6, 5});
  CHECK(seen({0, -2, false}) == Values{0, 0, 1, 0, 0, 4, 0, 0, 7});
  CHECK(seen({0, -2, true}) == Values{1, 0, 0, 4, 0, 0, 7, 0, 0});
  CHECK(seen({0, 3, false}) == Values(9, 0.0F));
}

TEST_CASE("a window keeps the channels of colour pixels together") {
  const std::vector<std::uint8_t> image = {1, 2, 3, 4, 5, 6};  // 1x2
  std::vector<float> table(768);
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t v = 0; v < 256; ++v) table[c * 256 + v] = static_cast<float>(100 * c + v);
  std::vector<float> out(6);
  vmoe::render(image.data(), {1, 2, 3}, {0, 0, true}, table, 3, out.data());
  CHECK(out == std::vector<float>{4, 105, 206, 1, 102, 203});
  vmoe::render(image.data(), {1, 2, 3}, {0, 1, false}, table, 3, out.data());
  CHECK(out == std::vector<float>{4, 105, 206, 0, 0, 0});
}

TEST_CASE("drawn windows stay within the padding and reach all of it") {
  const moxie::Random random(1, 2, 3);
  int seen[5][5][2] = {};
  for (std::uint64_t i = 0; i < 5000; ++i) {
    const vmoe::Window w = vmoe::draw_window({.crop_padding = 2, .flip = true}, random, i);
    REQUIRE(std::abs(w.down) <= 2);
    REQUIRE(std::abs(w.right) <= 2);
    ++seen[w.down + 2][w.right + 2][w.mirrored ? 1 : 0];
  }
  for (auto& row : seen)
    for (auto& cell : row)
      for (const int count : cell) CHECK(std::abs(count - 100) < 50);  // 5 standard deviations
  CHECK(vmoe::draw_window({.crop_padding = 0, .flip = false}, random, 5) == vmoe::Window{});
}

TEST_CASE("evaluation keeps the order and the last small batch") {
  const ImageSet set = make_set(5, {2, 2, 3});
  const Batches batches(set, 3, plain(3), {.batch_size = 2, .label_smoothing = 0.5},
                        Batches::Use::evaluate);
  CHECK(batches.per_epoch() == 3);
  CHECK(batches.rows(2) == 1);
  CHECK(batches.row_values() == 12);
  const Batches::Epoch epoch = batches.epoch(0);
  const Filled last = fill(batches, epoch, 2, 1);
  CHECK(last.labels == std::vector<std::int32_t>{1});
  CHECK(last.targets == std::vector<float>{0, 1, 0});
  for (Index k = 0; k < 12; ++k)
    CHECK(last.images[to_size(k)] == static_cast<float>(set.image(4)[k] / 255.0));
}

TEST_CASE("training shuffles and leaves out what fills no batch") {
  const ImageSet set = make_set(11, {1, 1, 1});
  const Batches batches(set, 3, plain(1), unchanged(4), Batches::Use::train);
  CHECK(batches.per_epoch() == 2);
  const Batches::Epoch epoch = batches.epoch(7);
  CHECK(epoch.order == batches.epoch(7).order);
  CHECK(epoch.order != batches.epoch(8).order);
  for (Index b = 0; b < 2; ++b) {
    const Filled filled = fill(batches, epoch, b, 4);
    for (Index r = 0; r < 4; ++r) {
      const std::int32_t image = epoch.order[to_size(4 * b + r)];
      CHECK(filled.images[to_size(r)] == static_cast<float>(set.image(image)[0] / 255.0));
      CHECK(filled.labels[to_size(r)] == image % 3);
    }
  }
}

TEST_CASE("a training batch is its windows rendered") {
  const ImageSet set = make_set(6, {8, 8, 3});
  const BatchOptions options{.batch_size = 6, .seed = 5};
  const Normalization normalization = vmoe::measure_normalization(set);
  const Batches batches(set, 3, normalization, options, Batches::Use::train);
  const Batches::Epoch epoch = batches.epoch(2);
  const Filled filled = fill(batches, epoch, 0, 6);
  const std::vector<float> table = vmoe::normalization_table(normalization, 3);
  std::vector<float> image(192);
  for (Index r = 0; r < 6; ++r) {
    const vmoe::Window window =
        vmoe::draw_window({}, moxie::Random(5, 2, moxie::stream_id("vmoe crop and flip")),
                          static_cast<std::uint64_t>(r));
    vmoe::render(set.image(epoch.order[to_size(r)]), set.shape, window, table, 3, image.data());
    CHECK(std::equal(image.begin(), image.end(), filled.images.begin() + r * 192));
  }
}

TEST_CASE("a batch has the same bits however it is split and repeated") {
  const ImageSet set = make_set(40, {8, 8, 3});
  for (const auto granularity : {Mixup::Granularity::batch, Mixup::Granularity::example}) {
    const BatchOptions options{.batch_size = 16,
                               .seed = 9,
                               .mixup = {.concentration = 0.3, .granularity = granularity},
                               .label_smoothing = 0.1};
    const Batches batches(set, 3, vmoe::measure_normalization(set), options, Batches::Use::train);
    const Filled whole = fill(batches, batches.epoch(4), 1, 16);
    for (const Index part : {1, 3, 8, 15}) CHECK(fill(batches, batches.epoch(4), 1, part) == whole);
    CHECK(fill(batches, batches.epoch(5), 1, 16) != whole);
    CHECK(fill(batches, batches.epoch(4), 0, 16) != whole);
  }
}

TEST_CASE("grey images are repeated only when asked") {
  const ImageSet set = make_set(3, {4, 4, 1});
  BatchOptions options = unchanged(3);
  const Batches one(set, 3, plain(1), options, Batches::Use::evaluate);
  CHECK(one.channels() == 1);
  options.model_channels = 3;
  const Batches three(set, 3, plain(1), options, Batches::Use::evaluate);
  CHECK(three.row_values() == 48);
  const Filled grey = fill(one, one.epoch(0), 0, 3);
  const Filled repeated = fill(three, three.epoch(0), 0, 3);
  for (std::size_t k = 0; k < repeated.images.size(); ++k)
    CHECK(repeated.images[k] == grey.images[k / 3]);
  const ImageSet colour = make_set(3, {4, 4, 3});
  options.model_channels = 1;
  CHECK_THROWS_WITH_AS(
      Batches(colour, 3, plain(3), options, Batches::Use::evaluate),
      "vmoe::Batches: the images have 3 channels, model_channels is 1, expected 0, 3",
      moxie::config_error);
}

TEST_CASE("label smoothing takes its share from the label") {
  const ImageSet set = make_set(4, {1, 1, 1});
  BatchOptions options = unchanged(4);
  options.label_smoothing = 0.3;
  const Batches batches(set, 3, plain(1), options, Batches::Use::train);
  const Filled filled = fill(batches, batches.epoch(0), 0, 4);
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t c = 0; c < 3; ++c) {
      const bool own = filled.labels[r] == static_cast<std::int32_t>(c);
      CHECK(filled.targets[3 * r + c] == Approx(own ? 0.8 : 0.1));
    }
}

TEST_CASE("mixup averages each row with the next and its label alike") {
  const ImageSet set = make_set(6, {2, 2, 1});
  BatchOptions options = unchanged(6);
  const Batches plain_batches(set, 3, plain(1), options, Batches::Use::train);
  const Batches::Epoch epoch = plain_batches.epoch(1);
  const Filled before = fill(plain_batches, epoch, 0, 6);
  for (const auto granularity : {Mixup::Granularity::batch, Mixup::Granularity::example}) {
    options.mixup = {.concentration = 1.0, .granularity = granularity};
    const Batches batches(set, 3, plain(1), options, Batches::Use::train);
    const Filled mixed = fill(batches, epoch, 0, 6);
    CHECK(mixed.labels == before.labels);
    std::vector<double> weights;
    for (std::size_t r = 0; r < 6; ++r) {
      const std::size_t next = (r + 1) % 6;
      const moxie::Random random(0, 1, moxie::stream_id("vmoe mixup"));
      const double w =
          vmoe::draw_mixup_weight(1.0, random, granularity == Mixup::Granularity::batch ? 0 : r);
      weights.push_back(w);
      for (std::size_t k = 0; k < 4; ++k)
        CHECK(mixed.images[4 * r + k] ==
              Approx(w * static_cast<double>(before.images[4 * r + k]) +
                     (1 - w) * static_cast<double>(before.images[4 * next + k])));
      double sum = 0;
      for (std::size_t c = 0; c < 3; ++c) {
        sum += static_cast<double>(mixed.targets[3 * r + c]);
        CHECK(mixed.targets[3 * r + c] ==
              Approx(w * static_cast<double>(before.targets[3 * r + c]) +
                     (1 - w) * static_cast<double>(before.targets[3 * next + c])));
      }
      CHECK(sum == Approx(1));
    }
    const bool equal = std::count(weights.begin(), weights.end(), weights[0]) == 6;
    CHECK(equal == (granularity == Mixup::Granularity::batch));
  }
}

TEST_CASE("mixup weights follow the larger of two Dirichlet weights") {
  // E max(b, 1 - b) for b ~ Beta(c, c): 1/2 + 1 / (c B(c, c) 4^c).
  for (const double c : {0.02, 0.2, 0.5, 1.0, 3.0}) {
    CAPTURE(c);
    const moxie::Random random(11, 0, 0);
    double sum = 0;
    constexpr int draws = 40000;
    for (std::uint64_t i = 0; i < draws; ++i) {
      const double w = vmoe::draw_mixup_weight(c, random, i);
      REQUIRE(w >= 0.5);
      REQUIRE(w <= 1.0);
      sum += w;
    }
    const double beta = std::exp(2 * std::lgamma(c) - std::lgamma(2 * c));
    CHECK(sum / draws == Approx(0.5 + 1 / (c * beta * std::pow(4.0, c))).epsilon(0.005));
  }
}

TEST_CASE("batch options out of range are refused by name") {
  const ImageSet set = make_set(6, {4, 4, 1});
  const auto error = [&](const BatchOptions& options) -> std::string {
    try {
      Batches(set, 3, plain(1), options, Batches::Use::train);
    } catch (const moxie::config_error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(error({.batch_size = 0}) == "vmoe::Batches: batch_size is 0, expected >= 1");
  CHECK(error({.batch_size = 7}) ==
        "vmoe::Batches: batch_size is 7 but there are 6 training images, expected at most that");
  CHECK(error({.batch_size = 2}) ==
        "vmoe::Batches: crop_padding is 4, expected 0 to 3 for images of 4x4");
  BatchOptions options = unchanged(2);
  CHECK(error(options).empty());
  options.label_smoothing = 1;
  CHECK(error(options) == "vmoe::Batches: label_smoothing is 1, expected [0, 1)");
  options.label_smoothing = 0;
  options.mixup.concentration = -1;
  CHECK(error(options) == "vmoe::Batches: mixup concentration is -1, expected >= 0 (0 = off)");
  options.mixup.concentration = std::numeric_limits<double>::quiet_NaN();
  CHECK(error(options) == Containing("mixup concentration is"));
  CHECK_THROWS_WITH_AS(Batches(ImageSet{}, 3, plain(0), unchanged(1), Batches::Use::evaluate),
                       "vmoe::Batches: 0 images came, expected at least 1", moxie::config_error);
}

TEST_CASE("fill refuses ranges and buffers that do not fit") {
  const ImageSet set = make_set(6, {2, 2, 1});
  const Batches batches(set, 3, plain(1), unchanged(4), Batches::Use::train);
  const Batches::Epoch epoch = batches.epoch(0);
  std::vector<float> images(15);
  CHECK_THROWS_WITH_AS(batches.fill(epoch, 0, {.images = images}),
                       "vmoe::Batches::fill: buffer 'images' has 15 values, expected at least 16",
                       moxie::config_error);
  CHECK_NOTHROW(batches.fill(epoch, 0, 0, 3, {.images = images}));
  CHECK_THROWS_WITH_AS(batches.fill(epoch, 0, 0, 5, {}),
                       "vmoe::Batches::fill: rows [0, 5) came, expected a range within [0, 4)",
                       moxie::config_error);
  CHECK_THROWS_WITH_AS(batches.fill(epoch, 1, {}),
                       "vmoe::Batches::fill: batch 1 of an epoch of 6 images came, expected 0 to 0 "
                       "of 6",
                       moxie::config_error);
}
