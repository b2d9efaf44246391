#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats.hpp"
#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

constexpr ImageShape cifar_shape{32, 32, 3};

/// What distinguishes the two: a record is its labels, then a plane of 1024 bytes for each of R, G,
/// B.
struct CifarFormat {
  std::string_view name;
  std::string_view names_file;
  Index label_bytes;  // the label that counts is the last: CIFAR-100 has the coarse one before it
  Index classes;
};
constexpr CifarFormat cifar10{"CIFAR-10 binary", "batches.meta.txt", 1, 10};
constexpr CifarFormat cifar100{"CIFAR-100 binary", "fine_label_names.txt", 2, 100};

std::optional<Index> find_file(const FileTree& tree, std::string_view name) {
  std::optional<Index> found;
  for (Index i = 0; i < tree.size(); ++i) {
    if (base_name(tree.files()[to_size(i)]) != name) continue;
    if (found) {
      moxie::throw_io("vmoe::load_dataset: both ", tree.name(*found), " and ", tree.name(i),
                      " came, expected one ", name);
    }
    found = i;
  }
  return found;
}

std::string batch_name(Index number) { return "data_batch_" + std::to_string(number) + ".bin"; }

std::vector<std::string> read_names(FileTree& tree, const CifarFormat& format) {
  std::vector<std::string> names;
  const std::optional<Index> file = find_file(tree, format.names_file);
  if (!file) {
    for (Index c = 0; c < format.classes; ++c) names.push_back(std::to_string(c));
    return names;
  }
  const Bytes text = tree.take(*file);
  std::string line;
  const auto end_line = [&]() {
    if (!line.empty()) names.push_back(line);
    line.clear();
  };
  for (const std::uint8_t c : text) {
    if (c == '\n') {
      end_line();
    } else if (c != '\r') {
      line += static_cast<char>(c);
    }
  }
  end_line();
  if (static_cast<Index>(names.size()) != format.classes) {
    moxie::throw_io("vmoe::load_dataset: ", tree.name(*file), ": ", names.size(),
                    " class names came, expected ", format.classes);
  }
  return names;
}

void append(FileTree& tree, Index file, const CifarFormat& format, ImageSet& set) {
  const Bytes bytes = tree.take(file);
  const Index values = cifar_shape.values();
  const Index record = format.label_bytes + values;
  const auto size = static_cast<Index>(bytes.size());
  if (size == 0 || size % record != 0) {
    moxie::throw_io("vmoe::load_dataset: ", tree.name(file), ": truncated or corrupt, ", size,
                    " bytes came, expected a multiple of ", record, " (", format.name, " records)");
  }
  const Index count = size / record;
  set.pixels.resize(set.pixels.size() + to_size(count * values));
  std::uint8_t* out = set.pixels.data() + set.count * values;
  for (Index i = 0; i < count; ++i) {
    const std::uint8_t* in = bytes.data() + i * record + format.label_bytes;
    const Index label = in[-1];
    if (label >= format.classes) {
      moxie::throw_io("vmoe::load_dataset: ", tree.name(file), ": image ", i, " has label ", label,
                      ", expected 0 to ", format.classes - 1);
    }
    set.labels.push_back(static_cast<std::int32_t>(label));
    const Index plane = cifar_shape.height * cifar_shape.width;
    for (Index p = 0; p < plane; ++p)
      for (Index c = 0; c < cifar_shape.channels; ++c) *out++ = in[c * plane + p];
  }
  set.count += count;
}

ImageSet read_files(FileTree& tree, const std::vector<Index>& files, const CifarFormat& format) {
  ImageSet set;
  set.shape = cifar_shape;
  for (const Index file : files) append(tree, file, format, set);
  return set;
}

Dataset read(FileTree& tree, const CifarFormat& format, const std::vector<Index>& train,
             std::optional<Index> test) {
  Dataset data;
  data.classes = read_names(tree, format);
  data.train = read_files(tree, train, format);
  if (test) data.test = read_files(tree, {*test}, format);
  data.format = std::string(format.name) + " (" + tree.container() + ")";
  return data;
}

bool has_file(const FileTree& tree, bool (*matches)(std::string_view)) {
  return std::any_of(tree.files().begin(), tree.files().end(),
                     [&](const std::string& file) { return matches(base_name(file)); });
}

bool is_batch(std::string_view name) {
  return name.starts_with("data_batch_") && name.ends_with(".bin");
}

}  // namespace

bool has_cifar10(const FileTree& tree) {
  return has_file(tree,
                  [](std::string_view name) { return is_batch(name) || name == "test_batch.bin"; });
}

Dataset read_cifar10(FileTree& tree) {
  const Index batches =
      std::count_if(tree.files().begin(), tree.files().end(),
                    [](const std::string& file) { return is_batch(base_name(file)); });
  std::vector<Index> train;
  for (Index number = 1; number <= (std::max)(batches, Index{1}); ++number) {
    const std::optional<Index> file = find_file(tree, batch_name(number));
    if (!file) {
      moxie::throw_io("vmoe::load_dataset: ", tree.root().string(), ": ", batch_name(number),
                      " is missing, expected data_batch_1.bin and on, without gaps");
    }
    train.push_back(*file);
  }
  return read(tree, cifar10, train, find_file(tree, "test_batch.bin"));
}

bool has_cifar100(const FileTree& tree) {
  return has_file(tree,
                  [](std::string_view name) { return name == "train.bin" || name == "test.bin"; });
}

Dataset read_cifar100(FileTree& tree) {
  const std::optional<Index> train = find_file(tree, "train.bin");
  if (!train) {
    moxie::throw_io("vmoe::load_dataset: ", tree.root().string(),
                    ": train.bin is missing, expected it beside test.bin");
  }
  return read(tree, cifar100, {*train}, find_file(tree, "test.bin"));
}

}  // namespace vmoe
