#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats.hpp"
#include "image_codec.hpp"
#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

std::string extension(std::string_view path) {
  const std::string_view file = base_name(path);
  const std::size_t dot = file.rfind('.');
  return dot == std::string_view::npos ? std::string() : lower_case(file.substr(dot + 1));
}

bool is_image(std::string_view path) {
  const std::string end = extension(path);
  return end == "png" || end == "jpg" || end == "jpeg";
}

bool is_foreign_image(std::string_view path) {
  static const std::set<std::string> known = {"bmp",  "gif", "webp", "tif", "tiff",
                                              "avif", "ppm", "pgm",  "jp2", "heic"};
  return known.contains(extension(path));
}

enum class Split { none, train, test, validation };

Split split_of(std::string_view folder) {
  const std::string name = lower_case(folder);
  if (name == "train") return Split::train;
  if (name == "test") return Split::test;
  if (name == "val" || name == "valid" || name == "validation") return Split::validation;
  return Split::none;
}

/// Where the classes lie: below `top` folders that all images share, and perhaps a split.
struct Layout {
  std::size_t top = 0;
  bool splits = false;

  std::size_t class_part() const { return top + (splits ? 1U : 0U); }
  Split split(const std::vector<std::string_view>& parts) const {
    return splits ? split_of(parts[top]) : Split::train;
  }
};

Layout find_layout(const FileTree& tree, const std::vector<Index>& images) {
  const auto path = [&](Index i) { return std::string_view(tree.files()[to_size(i)]); };
  const std::vector<std::string_view> first = split_path(path(images.front()));
  std::size_t shared = first.size() - 1;  // folders of the first image that all have
  std::size_t deepest = shared;
  for (const Index i : images) {
    const std::vector<std::string_view> parts = split_path(path(i));
    const std::size_t folders = parts.size() - 1;
    deepest = std::max(deepest, folders);
    const auto end = first.begin() + static_cast<std::ptrdiff_t>(std::min(shared, folders));
    shared = static_cast<std::size_t>(std::mismatch(first.begin(), end, parts.begin()).first -
                                      first.begin());
  }
  // The outer folders are those that all share, short of the class and of a split before it.
  Layout layout;
  while (layout.top < shared && layout.top + 1 < deepest &&
         !(layout.top + 2 == deepest && split_of(first[layout.top]) != Split::none)) {
    ++layout.top;
  }
  layout.splits = layout.top + 2 == deepest;

  for (const Index i : images) {
    const std::vector<std::string_view> parts = split_path(path(i));
    const std::size_t below = parts.size() - 1 - layout.top;
    if (below != (layout.splits ? 2U : 1U) || deepest > layout.top + 2) {
      moxie::throw_io("vmoe::load_dataset: ", tree.name(i), ": the image lies ", below,
                      " folders below '", tree.root().string(), "'",
                      layout.top > 0 ? " and what all images share" : "",
                      ", expected all in <split>/<class>/ or all in <class>/");
    }
    if (layout.splits && layout.split(parts) == Split::none) {
      moxie::throw_io("vmoe::load_dataset: ", tree.name(i), ": '", parts[layout.top],
                      "' came where a split was expected: train, test or val");
    }
  }
  const auto lies_in_split = [&](Index i) {
    return split_of(split_path(path(i))[layout.class_part()]) != Split::none;
  };
  if (!layout.splits && std::all_of(images.begin(), images.end(), lies_in_split)) {
    moxie::throw_io("vmoe::load_dataset: ", tree.name(images.front()),
                    ": the image lies in a split but in no class, expected <split>/<class>/");
  }
  return layout;
}

/// The images of one split, still encoded, with the names of their classes.
struct Part {
  std::vector<Index> files;
  std::vector<std::string> classes;
};

/// A class folder without images is a failed download more often than a wish.
void check_no_empty_class(const FileTree& tree, const Layout& layout) {
  const std::size_t parts_of_class = layout.class_part() + 1;
  std::set<std::string_view> filled;
  for (const std::string& file : tree.files())
    if (is_image(file)) filled.insert(parent_of(file));
  for (const std::string& folder : tree.folders()) {
    if (split_path(folder).size() == parts_of_class && !filled.contains(folder)) {
      moxie::throw_io("vmoe::load_dataset: ", tree.root().string(), ": folder '", folder,
                      "' holds no image, expected .png, .jpg or .jpeg files of one class");
    }
  }
}

/// One image that another is compared with.
struct FirstImage {
  Index file = -1;
  ImageShape shape;
};

/// Reads the files of a part and checks their sizes; colour among grey images makes all colour.
std::vector<Bytes> take_part(FileTree& tree, const Part& part, FirstImage& first, Index& channels) {
  std::vector<Bytes> encoded;
  encoded.reserve(part.files.size());
  for (const Index i : part.files) {
    encoded.push_back(tree.take(i));
    const ImageShape shape = image_shape(encoded.back(), tree.name(i));
    if (first.file < 0) first = {i, shape};
    if (shape.height != first.shape.height || shape.width != first.shape.width) {
      moxie::throw_io("vmoe::load_dataset: ", tree.name(i), " is ", shape.height, "x", shape.width,
                      " pixels but ", tree.name(first.file), " is ", first.shape.height, "x",
                      first.shape.width, ", expected images of one size");
    }
    channels = std::max(channels, shape.channels);
  }
  return encoded;
}

ImageSet decode_part(const FileTree& tree, const Part& part, const std::vector<Bytes>& encoded,
                     const ImageShape& shape, const std::map<std::string, std::int32_t>& ids) {
  ImageSet set;
  set.count = static_cast<Index>(part.files.size());
  set.shape = shape;
  set.pixels.resize(to_size(set.count * shape.values()));
  set.labels.reserve(part.files.size());
  const std::size_t values = to_size(shape.values());
  for (std::size_t i = 0; i < part.files.size(); ++i) {
    const std::string name = tree.name(part.files[i]);
    decode_image(encoded[i], name, shape, std::span(set.pixels).subspan(i * values, values));
    const auto id = ids.find(part.classes[i]);
    if (id == ids.end()) {
      moxie::throw_io("vmoe::load_dataset: ", name, ": class '", part.classes[i],
                      "' has no training images, expected one of the ", ids.size(),
                      " classes of the training split");
    }
    set.labels.push_back(id->second);
  }
  return set;
}

}  // namespace

bool has_image_folder(const FileTree& tree) {
  return std::any_of(tree.files().begin(), tree.files().end(),
                     [](const std::string& file) { return is_image(file); });
}

Dataset read_image_folder(FileTree& tree) {
  std::vector<Index> images;
  for (Index i = 0; i < tree.size(); ++i) {
    const std::string& file = tree.files()[to_size(i)];
    if (is_foreign_image(file)) {
      moxie::throw_io("vmoe::load_dataset: ", tree.name(i), ": '.", extension(file),
                      "' images are not read, expected .png, .jpg or .jpeg");
    }
    if (is_image(file)) images.push_back(i);
  }
  const Layout layout = find_layout(tree, images);
  check_no_empty_class(tree, layout);

  std::map<Split, Part> parts;
  for (const Index i : images) {
    const std::vector<std::string_view> path = split_path(tree.files()[to_size(i)]);
    Part& part = parts[layout.split(path)];
    part.files.push_back(i);
    part.classes.emplace_back(path[layout.class_part()]);
  }
  const Part& train = parts[Split::train];
  const Part& test =
      parts[Split::test].files.empty() ? parts[Split::validation] : parts[Split::test];
  if (train.files.empty()) {
    moxie::throw_io("vmoe::load_dataset: ", tree.root().string(),
                    ": there are test images but no training images, expected a folder 'train'");
  }

  std::map<std::string, std::int32_t> ids;
  for (const std::string& name : train.classes) ids[name] = 0;
  Dataset data;
  for (auto& [name, id] : ids) {
    id = static_cast<std::int32_t>(data.classes.size());
    data.classes.push_back(name);
  }

  FirstImage first;
  Index channels = 1;
  const std::vector<Bytes> train_files = take_part(tree, train, first, channels);
  const std::vector<Bytes> test_files = take_part(tree, test, first, channels);
  const ImageShape shape{first.shape.height, first.shape.width, channels};
  data.train = decode_part(tree, train, train_files, shape, ids);
  data.test = decode_part(tree, test, test_files, shape, ids);
  data.format = "image folder (" + tree.container() + ")";
  return data;
}

}  // namespace vmoe
