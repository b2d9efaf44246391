#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compression.hpp"
#include "formats.hpp"
#include "image_codec.hpp"
#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

enum class Content { images, labels };

/// "train-images-idx3-ubyte", "emnist-digits-test-labels-idx1-ubyte.gz", "t10k-images.idx3-ubyte".
bool is_idx(std::string_view file, Content content) {
  const std::string_view name = base_name(file);
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  return content == Content::images ? has("images") && has("idx3-ubyte")
                                    : has("labels") && has("idx1-ubyte");
}

bool is_train(std::string_view file) {
  return base_name(file).find("train") != std::string_view::npos;
}

/// The one file of a split; where it is there plain and as .gz, the plain one.
std::optional<Index> find_idx(const FileTree& tree, Content content, bool train) {
  std::optional<Index> found;
  for (Index i = 0; i < tree.size(); ++i) {
    const std::string& file = tree.files()[to_size(i)];
    if (!is_idx(file, content) || is_train(file) != train) continue;
    if (!found) {
      found = i;  // sorted by name: plain before .gz
    } else if (file != tree.files()[to_size(*found)] + ".gz") {
      moxie::throw_io("vmoe::load_dataset: both ", tree.name(*found), " and ", tree.name(i),
                      " came, expected one file of ", train ? "training " : "test ",
                      content == Content::images ? "images" : "labels");
    }
  }
  return found;
}

struct Idx {
  std::string name;
  std::vector<Index> sizes;
  Bytes bytes;  // header and data
  ByteView data;
};

/// IDX: 0, 0, type (8 = unsigned bytes), dimensions; their sizes, big-endian; the values.
Idx read_idx_file(FileTree& tree, Index file, std::size_t dimensions) {
  Idx idx;
  idx.name = tree.name(file);
  idx.bytes = tree.take(file);
  if (compression_of(idx.bytes) != Compression::none) idx.bytes = decompress(idx.bytes, idx.name);
  const ByteView bytes = idx.bytes;
  const std::size_t header = 4 + 4 * dimensions;
  if (bytes.size() < header) {
    moxie::throw_io("vmoe::load_dataset: ", idx.name, ": truncated IDX file, ", bytes.size(),
                    " bytes came, expected a header of ", header);
  }
  if (bytes[0] != 0 || bytes[1] != 0 || bytes[2] != 8 || bytes[3] != dimensions) {
    moxie::throw_io("vmoe::load_dataset: ", idx.name, ": not an IDX file of bytes (starts with ",
                    first_bytes(bytes), "), expected 00 00 08 0", dimensions);
  }
  for (std::size_t d = 0; d < dimensions; ++d) {
    const ByteView size = bytes.subspan(4 + 4 * d, 4);
    idx.sizes.push_back((Index{size[0]} << 24) | (Index{size[1]} << 16) | (Index{size[2]} << 8) |
                        Index{size[3]});
    // Limits what the product below can reach.
    if (idx.sizes.back() < 1 || (d > 0 && idx.sizes.back() > largest_side)) {
      moxie::throw_io("vmoe::load_dataset: ", idx.name, ": corrupt IDX header, dimension ", d,
                      " is ", idx.sizes.back(), ", expected at least 1",
                      d > 0 ? " and at most 4096" : "");
    }
  }
  Index expected = 1;
  for (const Index size : idx.sizes) expected *= size;
  idx.data = bytes.subspan(header);
  if (static_cast<Index>(idx.data.size()) != expected) {
    moxie::throw_io("vmoe::load_dataset: ", idx.name, ": truncated or corrupt IDX file, ",
                    idx.data.size(), " bytes of data came, expected ", expected);
  }
  return idx;
}

/// The labels of a set; they begin at 0 or, in some sets, at 1.
struct LabelRange {
  Index low = 0;
  Index high = 0;
};

LabelRange find_label_range(const Idx& labels) {
  std::array<Index, 256> counts{};
  for (const std::uint8_t label : labels.data) ++counts[label];
  LabelRange range;
  range.low = counts[0] > 0 ? 0 : 1;
  range.high = *std::max_element(labels.data.begin(), labels.data.end());
  for (Index label = range.low; label <= range.high; ++label) {
    if (counts[to_size(label)] == 0) {
      moxie::throw_io("vmoe::load_dataset: ", labels.name, ": labels go up to ", range.high,
                      " but none is ", label, ", expected all from ", range.low, " on");
    }
  }
  return range;
}

ImageSet make_set(const Idx& images, const Idx& labels, const LabelRange& range) {
  if (images.sizes[0] != labels.sizes[0]) {
    moxie::throw_io("vmoe::load_dataset: ", labels.name, ": ", labels.sizes[0],
                    " labels came, expected ", images.sizes[0], ", one for each image of ",
                    images.name);
  }
  ImageSet set;
  set.count = images.sizes[0];
  set.shape = {images.sizes[1], images.sizes[2], 1};
  set.pixels.assign(images.data.begin(), images.data.end());
  set.labels.reserve(labels.data.size());
  for (std::size_t i = 0; i < labels.data.size(); ++i) {
    const Index label = labels.data[i];
    if (label < range.low || label > range.high) {
      moxie::throw_io("vmoe::load_dataset: ", labels.name, ": image ", i, " has label ", label,
                      ", expected ", range.low, " to ", range.high, " as in training");
    }
    set.labels.push_back(static_cast<std::int32_t>(label - range.low));
  }
  return set;
}

Index require(const FileTree& tree, std::optional<Index> file, const char* what) {
  if (!file) {
    moxie::throw_io("vmoe::load_dataset: ", tree.root().string(), ": ", what,
                    " is missing, expected it (or it with .gz) beside the other IDX files");
  }
  return *file;
}

}  // namespace

bool has_idx(const FileTree& tree) {
  return std::any_of(tree.files().begin(), tree.files().end(), [](const std::string& file) {
    return is_idx(file, Content::images) || is_idx(file, Content::labels);
  });
}

Dataset read_idx(FileTree& tree) {
  const Index train_images =
      require(tree, find_idx(tree, Content::images, true), "train-images-idx3-ubyte");
  const Index train_labels =
      require(tree, find_idx(tree, Content::labels, true), "train-labels-idx1-ubyte");
  const std::optional<Index> test_images = find_idx(tree, Content::images, false);
  const std::optional<Index> test_labels = find_idx(tree, Content::labels, false);

  Dataset data;
  const Idx images = read_idx_file(tree, train_images, 3);
  const Idx labels = read_idx_file(tree, train_labels, 1);
  const LabelRange range = find_label_range(labels);
  data.train = make_set(images, labels, range);
  if (test_images || test_labels) {
    const Idx other_images =
        read_idx_file(tree, require(tree, test_images, "t10k-images-idx3-ubyte"), 3);
    const Idx other_labels =
        read_idx_file(tree, require(tree, test_labels, "t10k-labels-idx1-ubyte"), 1);
    data.test = make_set(other_images, other_labels, range);
    if (data.test.shape != data.train.shape) {
      moxie::throw_io("vmoe::load_dataset: ", other_images.name, " holds images of ",
                      data.test.shape.height, "x", data.test.shape.width, " but ", images.name,
                      " of ", data.train.shape.height, "x", data.train.shape.width,
                      ", expected one size");
    }
  }
  for (Index label = range.low; label <= range.high; ++label)
    data.classes.push_back(std::to_string(label));
  data.format = "IDX (" + tree.container() + ")";
  return data;
}

}  // namespace vmoe
