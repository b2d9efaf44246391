#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "augment.hpp"
#include "image_set.hpp"
#include "mixup.hpp"
#include "moxie/core/random.hpp"
#include "normalization.hpp"
#include "views.hpp"

namespace vmoe {

struct BatchOptions {
  Index batch_size = 128;
  Index model_channels = 0;  ///< 0 = as the data; 3 repeats the one channel of grey images
  // The rest is for training only.
  std::uint64_t seed = 0;
  Augmentation augmentation{};
  Mixup mixup{};
  double label_smoothing = 0;  ///< s: targets are (1 - s) one_hot + s / classes
  /// Two views of each image, made so, instead of one by `augmentation`; without mixup.
  std::optional<ViewRecipe> views{};
};

/// Memory of the caller for one batch. A span may be empty: that part is not written.
struct BatchBuffers {
  std::span<float> images{};            ///< [rows, row_values]: a row is height, width, channel
  std::span<float> targets{};           ///< [rows, classes]: smoothed and mixed in training
  std::span<std::int32_t> labels{};     ///< [rows]: of the image itself, whatever was mixed into it
  std::span<moxie::ImageView> views{};  ///< [rows]: where each row looks; with two views only
};

/// Cuts an image set into batches of model inputs. Every value is a pure function of the options
/// and (epoch, batch, row): a resumed run continues bit for bit, and threads may fill parts of a
/// batch in any order. Nothing changes after construction. The image set must outlive this object.
///
/// With two views, the rows of a batch of n images are their first views and then their second ones
/// in the same order: row n + i is the other view of row i, and no group of consecutive images that
/// divides n holds both.
class Batches {
 public:
  enum class Use {
    train,  ///< random order and changes; images that fill no whole batch are left out of the epoch
    evaluate  ///< order of the data, unchanged, the last batch may be smaller
  };
  /// One pass over the data: the image of every position.
  struct Epoch {
    std::uint64_t number = 0;
    std::vector<std::int32_t> order;
  };

  /// @throws moxie::config_error if an option is out of its range or does not fit the data.
  Batches(const ImageSet& set, Index classes, const Normalization& normalization,
          const BatchOptions& options, Use use);

  Index per_epoch() const;                                           ///< batches of one epoch
  Index rows(Index batch) const { return views() * images(batch); }  ///< of one batch
  Index images(Index batch) const;                                   ///< of one batch
  Index views() const { return options_.views ? 2 : 1; }             ///< of an image
  Index row_values() const { return set_.shape.height * set_.shape.width * channels_; }
  Index channels() const { return channels_; }

  Epoch epoch(std::uint64_t number) const;

  /// Writes rows [first, last) of a batch, last <= rows(batch). `buffers` is that of the whole
  /// batch.
  /// @throws moxie::config_error if a range or a buffer is too short.
  void fill(const Epoch& epoch, Index batch, Index first, Index last,
            const BatchBuffers& buffers) const;
  /// Writes all rows.
  void fill(const Epoch& epoch, Index batch, const BatchBuffers& buffers) const {
    fill(epoch, batch, 0, rows(batch), buffers);
  }

 private:
  struct Row {
    Index position;  // in the epoch
    Index image;     // in the set
  };
  Row row(const Epoch& epoch, Index batch, Index r) const;
  double own_weight(const moxie::Random& random, Index batch, Index position) const;
  void write_image(const moxie::Random& random, const Row& row, float* out) const;
  void write_images(const Epoch& epoch, Index batch, Index first, Index last, float* out) const;
  void write_views(const Epoch& epoch, Index batch, Index first, Index last,
                   const BatchBuffers& buffers) const;
  void write_targets(const Epoch& epoch, Index batch, Index first, Index last, float* out) const;

  const ImageSet& set_;
  Index classes_;
  Index channels_;
  BatchOptions options_;
  bool training_;
  std::vector<float> table_;
};

}  // namespace vmoe
