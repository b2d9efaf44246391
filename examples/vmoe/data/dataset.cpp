#include "dataset.hpp"

#include <cstddef>
#include <cstring>
#include <span>
#include <string>

#include "file_tree.hpp"
#include "formats.hpp"
#include "held_out.hpp"
#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

struct Format {
  const char* name;
  bool (*is_there)(const FileTree&);
  Dataset (*read)(FileTree&);
};
constexpr Format binary_formats[] = {
    {"CIFAR-10", has_cifar10, read_cifar10},
    {"CIFAR-100", has_cifar100, read_cifar100},
    {"IDX", has_idx, read_idx},
};
constexpr Format image_folder{"image folder", has_image_folder, read_image_folder};

/// Pictures beside binary files are decoration; two binary formats are two data sets.
const Format& recognise(const FileTree& tree) {
  const Format* found = nullptr;
  for (const Format& format : binary_formats) {
    if (!format.is_there(tree)) continue;
    if (found != nullptr) {
      moxie::throw_io("vmoe::load_dataset: ", tree.root().string(), " holds both ", found->name,
                      " and ", format.name, " files, expected one data set");
    }
    found = &format;
  }
  if (found == nullptr && image_folder.is_there(tree)) found = &image_folder;
  if (found == nullptr) {
    const std::string example =
        tree.files().empty() ? "" : ", the first is '" + tree.files().front() + "'";
    moxie::throw_io("vmoe::load_dataset: ", tree.root().string(), ": unknown format, ", tree.size(),
                    " files in this ", tree.container(), example,
                    "; expected <split>/<class>/*.png|jpg|jpeg, CIFAR data_batch_*.bin or "
                    "train.bin, or train-images-idx3-ubyte");
  }
  return *found;
}

/// FNV-1a over words of 8 bytes instead of bytes (8 times faster), each step with a fold, as a
/// product alone never carries high bits to low ones.
class Digest {
 public:
  void add(std::uint64_t word) {
    hash_ = (hash_ ^ word) * 0x100000001b3U;
    hash_ ^= hash_ >> 32U;
  }
  void add(std::span<const std::uint8_t> bytes) {
    add(bytes.size());
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) add(first_word(bytes, 8));
    if (!bytes.empty()) add(first_word(bytes, bytes.size()));
  }
  std::uint64_t value() const { return hash_; }

 private:
  static std::uint64_t first_word(std::span<const std::uint8_t> bytes, std::size_t size) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), size);
    return word;
  }
  std::uint64_t hash_ = 0xcbf29ce484222325U;
};

void add(Digest& digest, const ImageSet& set) {
  for (const Index size : {set.count, set.shape.height, set.shape.width, set.shape.channels})
    digest.add(static_cast<std::uint64_t>(size));
  digest.add(set.pixels);
  for (const std::int32_t label : set.labels) digest.add(static_cast<std::uint64_t>(label));
}

}  // namespace

Dataset load_dataset(const std::filesystem::path& path, const LoadOptions& options) {
  FileTree tree = FileTree::open(path);
  Dataset data = recognise(tree).read(tree);
  data.source = path.string();
  if (data.classes.size() < 2) {
    moxie::throw_config("vmoe::load_dataset: ", data.source, ": ", data.classes.size(),
                        " class came ('", data.classes.front(), "'), expected at least 2");
  }
  if (data.test.count == 0) hold_out(data, options.held_out, options.seed);
  return data;
}

std::uint64_t fingerprint(const Dataset& data) {
  Digest digest;
  add(digest, data.train);
  add(digest, data.test);
  for (const std::string& name : data.classes)
    digest.add({reinterpret_cast<const std::uint8_t*>(name.data()), name.size()});
  return digest.value();
}

}  // namespace vmoe
