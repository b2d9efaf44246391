#include "batch.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moxie/core/error.hpp"
#include "shuffle.hpp"

namespace vmoe {
namespace {

// Each purpose draws from its own stream: switching one off leaves the others as they were.
constexpr std::uint64_t order_stream = moxie::stream_id("vmoe epoch order");
constexpr std::uint64_t window_stream = moxie::stream_id("vmoe crop and flip");
constexpr std::uint64_t mixup_stream = moxie::stream_id("vmoe mixup");
constexpr std::uint64_t views_stream = moxie::stream_id("vmoe views");

Index input_channels(const ImageSet& set, const BatchOptions& options) {
  const Index data = set.shape.channels;
  const Index model = options.model_channels == 0 ? data : options.model_channels;
  if (model != data && !(data == 1 && model == 3)) {
    moxie::throw_config("vmoe::Batches: the images have ", data, " channels, model_channels is ",
                        options.model_channels, ", expected 0, ", data,
                        data == 1 ? " or 3 (grey repeated)" : "");
  }
  return model;
}

void check(const ImageSet& set, Index classes, const BatchOptions& options, bool training) {
  if (options.batch_size < 1)
    moxie::throw_config("vmoe::Batches: batch_size is ", options.batch_size, ", expected >= 1");
  if (set.count < 1) moxie::throw_config("vmoe::Batches: 0 images came, expected at least 1");
  if (classes < 1) moxie::throw_config("vmoe::Batches: ", classes, " classes, expected >= 1");
  if (!training) return;
  if (options.batch_size > set.count) {
    moxie::throw_config("vmoe::Batches: batch_size is ", options.batch_size, " but there are ",
                        set.count, " training images, expected at most that");
  }
  const Index padding =
      (options.views ? options.views->augmentation : options.augmentation).crop_padding;
  const Index side = (std::min)(set.shape.height, set.shape.width);
  if (padding < 0 || padding >= side) {
    moxie::throw_config("vmoe::Batches: crop_padding is ", padding, ", expected 0 to ", side - 1,
                        " for images of ", set.shape.height, "x", set.shape.width);
  }
  const double smoothing = options.label_smoothing;
  if (!(smoothing >= 0 && smoothing < 1))
    moxie::throw_config("vmoe::Batches: label_smoothing is ", smoothing, ", expected [0, 1)");
  const double concentration = options.mixup.concentration;
  if (!(concentration >= 0) || !std::isfinite(concentration)) {
    moxie::throw_config("vmoe::Batches: mixup concentration is ", concentration,
                        ", expected >= 0 (0 = off)");
  }
  if (!options.views) return;
  if (concentration > 0)
    moxie::throw_config("vmoe::Batches: mixup concentration is ", concentration,
                        ", expected 0 with two views of each image");
  if (!(options.views->jitter >= 0 && options.views->jitter <= 1))
    moxie::throw_config("vmoe::Batches: jitter is ", options.views->jitter, ", expected [0, 1]");
}

template <class T>
void check_buffer(const char* name, std::span<T> buffer, Index needed) {
  if (!buffer.empty() && static_cast<Index>(buffer.size()) < needed) {
    moxie::throw_config("vmoe::Batches::fill: buffer '", name, "' has ", buffer.size(),
                        " values, expected at least ", needed);
  }
}

}  // namespace

Batches::Batches(const ImageSet& set, Index classes, const Normalization& normalization,
                 const BatchOptions& options, Use use)
    : set_(set),
      classes_(classes),
      channels_(input_channels(set, options)),
      options_(options),
      training_(use == Use::train),
      table_(normalization_table(normalization, set.shape.channels)) {
  check(set, classes, options, training_);
  if (!training_) {
    options_.augmentation = {.crop_padding = 0, .flip = false};
    options_.mixup = {};
    options_.label_smoothing = 0;
    options_.views.reset();
  }
}

Index Batches::per_epoch() const {
  const Index size = options_.batch_size;
  return training_ ? set_.count / size : (set_.count + size - 1) / size;
}

Index Batches::images(Index batch) const {
  return (std::min)(options_.batch_size, set_.count - batch * options_.batch_size);
}

Batches::Epoch Batches::epoch(std::uint64_t number) const {
  if (training_) return {number, shuffled(set_.count, {options_.seed, number, order_stream})};
  Epoch epoch{number, std::vector<std::int32_t>(to_size(set_.count))};
  std::iota(epoch.order.begin(), epoch.order.end(), 0);
  return epoch;
}

void Batches::fill(const Epoch& epoch, Index batch, Index first, Index last,
                   const BatchBuffers& buffers) const {
  if (batch < 0 || batch >= per_epoch() || static_cast<Index>(epoch.order.size()) != set_.count) {
    moxie::throw_config("vmoe::Batches::fill: batch ", batch, " of an epoch of ",
                        epoch.order.size(), " images came, expected 0 to ", per_epoch() - 1, " of ",
                        set_.count);
  }
  if (first < 0 || first > last || last > rows(batch)) {
    moxie::throw_config("vmoe::Batches::fill: rows [", first, ", ", last,
                        ") came, expected a range within [0, ", rows(batch), ")");
  }
  check_buffer("images", buffers.images, last * row_values());
  check_buffer("targets", buffers.targets, last * classes_);
  check_buffer("labels", buffers.labels, last);
  check_buffer("views", buffers.views, last);
  if (first == last) return;

  if (!buffers.images.empty()) {
    if (options_.views) {
      write_views(epoch, batch, first, last, buffers);
    } else {
      write_images(epoch, batch, first, last, buffers.images.data());
    }
  }
  if (!buffers.targets.empty()) write_targets(epoch, batch, first, last, buffers.targets.data());
  if (!buffers.labels.empty())
    for (Index r = first; r < last; ++r)
      buffers.labels[to_size(r)] = set_.labels[to_size(row(epoch, batch, r).image)];
}

Batches::Row Batches::row(const Epoch& epoch, Index batch, Index r) const {
  const Index position = batch * options_.batch_size + r % images(batch);
  return {position, epoch.order[to_size(position)]};
}

double Batches::own_weight(const moxie::Random& random, Index batch, Index position) const {
  const bool by_batch = options_.mixup.granularity == Mixup::Granularity::batch;
  return draw_mixup_weight(options_.mixup.concentration, random,
                           static_cast<std::uint64_t>(by_batch ? batch : position));
}

void Batches::write_image(const moxie::Random& random, const Row& row, float* out) const {
  const Window window =
      draw_window(options_.augmentation, random, static_cast<std::uint64_t>(row.position));
  render(set_.image(row.image), set_.shape, window, table_, channels_, out);
}

void Batches::write_images(const Epoch& epoch, Index batch, Index first, Index last,
                           float* out) const {
  const moxie::Random windows(options_.seed, epoch.number, window_stream);
  const Index values = row_values();
  for (Index r = first; r < last; ++r) write_image(windows, row(epoch, batch, r), out + r * values);
  if (!options_.mixup.on()) return;

  // Upwards, each row is mixed with the next, which is still unmixed. The one after the last may
  // belong to another thread, or be row 0: it is made again.
  std::vector<float> after(to_size(values));
  write_image(windows, row(epoch, batch, last), after.data());
  const moxie::Random weights(options_.seed, epoch.number, mixup_stream);
  for (Index r = first; r < last; ++r) {
    const double weight = own_weight(weights, batch, row(epoch, batch, r).position);
    const auto own = static_cast<float>(weight);
    const auto other = static_cast<float>(1 - weight);
    float* to = out + r * values;
    const float* next = r + 1 < last ? to + values : after.data();
    for (Index v = 0; v < values; ++v) to[v] = own * to[v] + other * next[v];
  }
}

void Batches::write_views(const Epoch& epoch, Index batch, Index first, Index last,
                          const BatchBuffers& buffers) const {
  const moxie::Random random(options_.seed, epoch.number, views_stream);
  for (Index r = first; r < last; ++r) {
    const Row own = row(epoch, batch, r);
    const moxie::ImageView view =
        make_view(*options_.views, random, static_cast<std::uint64_t>(own.position),
                  static_cast<std::uint64_t>(r / images(batch)), set_.image(own.image), set_.shape,
                  table_, channels_, buffers.images.data() + r * row_values());
    if (!buffers.views.empty()) buffers.views[to_size(r)] = view;
  }
}

void Batches::write_targets(const Epoch& epoch, Index batch, Index first, Index last,
                            float* out) const {
  const moxie::Random weights(options_.seed, epoch.number, mixup_stream);
  const double smoothing = options_.label_smoothing;
  const double base = smoothing / static_cast<double>(classes_);
  for (Index r = first; r < last; ++r) {
    const Row own = row(epoch, batch, r);
    const Row next = row(epoch, batch, r + 1);
    const double weight = options_.mixup.on() ? own_weight(weights, batch, own.position) : 1.0;
    const std::int32_t label = set_.labels[to_size(own.image)];
    const std::int32_t other = set_.labels[to_size(next.image)];
    float* to = out + r * classes_;
    std::fill(to, to + classes_, static_cast<float>(base));
    // In double first: with equal labels the two shares must add up to 1 - smoothing.
    if (label == other) {
      to[label] = static_cast<float>(base + (1 - smoothing));
    } else {
      to[label] = static_cast<float>(base + (1 - smoothing) * weight);
      to[other] = static_cast<float>(base + (1 - smoothing) * (1 - weight));
    }
  }
}

}  // namespace vmoe
