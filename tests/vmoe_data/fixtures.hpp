#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"
#include "vmoe/data/bytes.hpp"
#include "vmoe/data/image_set.hpp"

/// Data sets made by the tests themselves.
namespace fixtures {

using vmoe::Bytes;
using vmoe::Index;

/// A folder of its own for each test: cases run beside each other.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

struct Picture {
  Index height = 0;
  Index width = 0;
  Index channels = 0;
  Bytes pixels;
};

/// All pixels of one value, which JPEG keeps.
Picture flat(Index height, Index width, Index channels, std::uint8_t value);
/// Pixels that differ: value k is (7 k + salt) mod 256.
Picture pattern(Index height, Index width, Index channels, std::uint8_t salt);

Bytes png(const Picture& picture);
Bytes jpeg(const Picture& picture, bool progressive = false);
Bytes gzip(const Bytes& bytes);

/// Files in the order in which they are written.
using Files = std::vector<std::pair<std::string, Bytes>>;

void write_file(const std::filesystem::path& path, const Bytes& bytes);
void write_directory(const std::filesystem::path& root, const Files& files);
/// `format` is "tar", "tar.gz", "tar.xz" or "zip".
void write_archive(const std::filesystem::path& path, const std::string& format,
                   const Files& files);

/// Two classes, `cat` (values from 10) and `dog` (from 100): 3 training and 2 test images each, of
/// 4x4 pixels, not in the order of their names.
Files small_image_folder(const std::string& top, bool colour = true);

/// IDX bytes: header for `sizes`, then `data`.
Bytes idx(const std::vector<std::uint32_t>& sizes, const Bytes& data);
/// CIFAR records: the label bytes, then 3072 pixels of value `first`, `first` + 1, ...
Bytes cifar(const std::vector<std::vector<std::uint8_t>>& labels, std::uint8_t first);

/// Equals every text that contains `part`; doctest's own does not compare with std::string
/// everywhere.
struct Containing {
  explicit Containing(std::string text) : part(std::move(text)) {}
  std::string part;

  friend bool operator==(const std::string& text, const Containing& wanted) {
    return text.find(wanted.part) != std::string::npos;
  }
  friend std::ostream& operator<<(std::ostream& out, const Containing& wanted) {
    return out << "text containing \"" << wanted.part << '"';
  }
};

/// What loading `path` throws, with the type in front: "io_error: ..." ; empty if it loads.
std::string load_error(const std::filesystem::path& path);
/// The same of a new directory of `files`.
std::string directory_error(const Files& files);

}  // namespace fixtures
