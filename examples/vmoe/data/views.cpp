#include "views.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "moxie/core/error.hpp"
#include "photometric.hpp"
#include "warp.hpp"

namespace vmoe {
namespace {

void jitter(double strength, const Pixels& image, Draws& draws) {
  const auto factor = [&] { return draws.uniform(1 - strength, 1 + strength); };
  brighten(image, factor());
  contrast(image, factor());
  saturate(image, factor());
}

Window draw_window(const Augmentation& augmentation, Draws& draws) {
  const Index places = 2 * augmentation.crop_padding + 1;
  Window window;
  window.down = draws.below(places) - augmentation.crop_padding;
  window.right = draws.below(places) - augmentation.crop_padding;
  window.mirrored = draws.coin() && augmentation.flip;
  return window;
}

}  // namespace

ViewRecipe::Kind view_kind(std::string_view name) {
  if (name == "light") return ViewRecipe::Kind::light;
  if (name == "crop") return ViewRecipe::Kind::crop;
  if (name == "paper") return ViewRecipe::Kind::paper;
  moxie::throw_config("vmoe: views are '", name, "', expected light, crop or paper");
}

moxie::ImageBox draw_crop(double least_area, double most_area, const ImageShape& shape,
                          Draws& draws) {
  const auto height = static_cast<double>(shape.height);
  const auto width = static_cast<double>(shape.width);
  constexpr int attempts = 100;
  for (int i = 0; i < attempts; ++i) {
    const double area = draws.uniform(least_area, most_area) * height * width;
    const double aspect = draws.uniform(3.0 / 4, 4.0 / 3);
    const double w = std::round(std::sqrt(area * aspect));
    const double h = std::round(std::sqrt(area / aspect));
    if (w < 1 || h < 1 || w > width || h > height) continue;
    const auto y = static_cast<double>(draws.below(static_cast<Index>(height - h) + 1));
    const auto x = static_cast<double>(draws.below(static_cast<Index>(width - w) + 1));
    return {y, x, h, w};
  }
  return {0, 0, height, width};
}

moxie::ImageView view_of(const Window& window, const ImageShape& shape) {
  const auto height = static_cast<double>(shape.height);
  const auto width = static_cast<double>(shape.width);
  const auto down = static_cast<double>(window.down);
  const auto right = static_cast<double>(window.right);
  moxie::ImageView view =
      moxie::ImageView::crop({down, right, height, width}, shape.height, shape.width);
  view.source = {std::max(down, 0.0), std::max(right, 0.0), height - std::abs(down),
                 width - std::abs(right)};
  if (window.mirrored) view.then(moxie::ViewMap::flip_horizontal(width));
  return view;
}

moxie::ImageView make_view(const ViewRecipe& recipe, const moxie::Random& random,
                           std::uint64_t position, std::uint64_t number, const std::uint8_t* image,
                           const ImageShape& shape, std::span<const float> table,
                           Index out_channels, float* out) {
  Draws draws(random, position, number);
  std::vector<std::uint8_t> source;
  if (recipe.jitter > 0) {
    source.assign(image, image + shape.values());
    jitter(recipe.jitter, {source, shape}, draws);
    image = source.data();
  }
  if (recipe.kind == ViewRecipe::Kind::light) {
    const Window window = draw_window(recipe.augmentation, draws);
    render(image, shape, window, table, out_channels, out);
    return view_of(window, shape);
  }
  const bool paper = recipe.kind == ViewRecipe::Kind::paper;
  const moxie::ImageBox box = draw_crop(paper ? 0.05 : 0.6, 1, shape, draws);
  moxie::ImageView view = moxie::ImageView::crop(box, shape.height, shape.width);
  std::vector<std::uint8_t> seen(to_size(shape.values()));
  const Pixels pixels{seen, shape};
  crop_resize(image, box, pixels);
  if (draws.coin() && recipe.augmentation.flip) {
    const auto mirror = moxie::ViewMap::flip_horizontal(static_cast<double>(shape.width));
    warp(pixels, mirror, 0);
    view.then(mirror);
  }
  if (paper) view.then(recipe.rand_augment(pixels, draws));
  render(seen.data(), shape, {}, table, out_channels, out);
  return view;
}

}  // namespace vmoe
