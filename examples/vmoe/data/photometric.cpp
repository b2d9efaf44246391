#include "photometric.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace vmoe {
namespace {

std::uint8_t to_byte(double value) {
  // A value that is whole but for rounding counts as whole, whatever the compiler fuses.
  return static_cast<std::uint8_t>(std::clamp(std::floor(value + 1e-9), 0.0, 255.0));
}
std::uint8_t blend(double from, std::uint8_t value, double factor) {
  return to_byte(from + factor * (value - from));
}

using Table = std::array<std::uint8_t, 256>;

void look_up(const Pixels& image, Index channel, const Table& table) {
  for (std::size_t i = to_size(channel); i < image.values.size();
       i += to_size(image.shape.channels))
    image.values[i] = table[image.values[i]];
}
template <class F>
void map_values(const Pixels& image, const F& f) {
  Table table;
  for (std::size_t v = 0; v < table.size(); ++v)
    table[v] = static_cast<std::uint8_t>(f(static_cast<int>(v)));
  for (Index c = 0; c < image.shape.channels; ++c) look_up(image, c, table);
}
std::array<std::int64_t, 256> histogram(const Pixels& image, Index channel) {
  std::array<std::int64_t, 256> counts{};
  for (std::size_t i = to_size(channel); i < image.values.size();
       i += to_size(image.shape.channels))
    ++counts[image.values[i]];
  return counts;
}

/// The luminance of a pixel, rounded.
std::uint8_t grey_of(const std::uint8_t* pixel, Index channels) {
  if (channels != 3) return pixel[0];
  return static_cast<std::uint8_t>((2989 * pixel[0] + 5870 * pixel[1] + 1140 * pixel[2] + 5000) /
                                   10000);
}

}  // namespace

void auto_contrast(const Pixels& image) {
  for (Index c = 0; c < image.shape.channels; ++c) {
    const auto counts = histogram(image, c);
    int low = 0;
    int high = 255;
    while (low < 255 && counts[to_size(low)] == 0) ++low;
    while (high > 0 && counts[to_size(high)] == 0) --high;
    if (low >= high) continue;
    Table table{};
    for (int v = low; v <= high; ++v)
      table[to_size(v)] = static_cast<std::uint8_t>((v - low) * 255 / (high - low));
    look_up(image, c, table);
  }
}

void equalize(const Pixels& image) {
  for (Index c = 0; c < image.shape.channels; ++c) {
    const auto counts = histogram(image, c);
    std::int64_t all = 0;
    std::int64_t last = 0;
    for (const std::int64_t n : counts) {
      all += n;
      if (n > 0) last = n;
    }
    const std::int64_t step = (all - last) / 255;
    if (step == 0) continue;
    Table table{};
    std::int64_t below = 0;
    for (std::size_t v = 0; v < table.size(); ++v) {
      table[v] =
          v == 0
              ? std::uint8_t{0}
              : static_cast<std::uint8_t>(std::min<std::int64_t>((below + step / 2) / step, 255));
      below += counts[v];
    }
    look_up(image, c, table);
  }
}

void invert(const Pixels& image) {
  map_values(image, [](int v) { return 255 - v; });
}

void posterize(const Pixels& image, int bits) {
  const int lost = 8 - bits;
  map_values(image, [lost](int v) { return v >> lost << lost; });
}

void solarize(const Pixels& image, int threshold) {
  map_values(image, [threshold](int v) { return v < threshold ? v : 255 - v; });
}

void solarize_add(const Pixels& image, int addition) {
  map_values(image, [addition](int v) { return v < 128 ? std::clamp(v + addition, 0, 255) : v; });
}

void saturate(const Pixels& image, double factor) {
  if (image.shape.channels != 3) return;
  for (std::size_t i = 0; i < image.values.size(); i += 3) {
    std::uint8_t* const pixel = image.values.data() + i;
    const double grey = grey_of(pixel, 3);
    for (int c = 0; c < 3; ++c) pixel[c] = blend(grey, pixel[c], factor);
  }
}

void contrast(const Pixels& image, double factor) {
  const Index channels = image.shape.channels;
  const Index count = image.shape.height * image.shape.width;
  std::int64_t sum = 0;
  for (Index i = 0; i < count; ++i) sum += grey_of(image.values.data() + i * channels, channels);
  const double mean = std::floor(static_cast<double>(sum) / static_cast<double>(count) + 0.5);
  map_values(image, [&](int v) { return blend(mean, static_cast<std::uint8_t>(v), factor); });
}

void brighten(const Pixels& image, double factor) {
  map_values(image, [&](int v) { return blend(0, static_cast<std::uint8_t>(v), factor); });
}

void sharpen(const Pixels& image, double factor) {
  const ImageShape& s = image.shape;
  const std::vector<std::uint8_t> in(image.values.begin(), image.values.end());
  const Index row = s.width * s.channels;
  for (Index y = 1; y + 1 < s.height; ++y)
    for (Index i = y * row + s.channels; i < (y + 1) * row - s.channels; ++i) {
      int sum = 4 * in[to_size(i)];  // the centre counts 5 times, its neighbours once
      for (Index dy = -row; dy <= row; dy += row)
        for (Index dx = -s.channels; dx <= s.channels; dx += s.channels)
          sum += in[to_size(i + dy + dx)];
      image.values[to_size(i)] = blend(sum / 13, in[to_size(i)], factor);
    }
}

}  // namespace vmoe
