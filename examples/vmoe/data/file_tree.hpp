#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.hpp"
#include "image_set.hpp"

namespace vmoe {

/// The files below a directory or inside an archive (.tar, .tar.gz, .tar.xz, .zip), sorted by path,
/// so that readers of formats see no difference and the order never depends on the file system.
/// Hidden files (".name", "__MACOSX") are left out. Directories are read file by file when asked;
/// an archive lies in memory.
class FileTree {
 public:
  /// @throws moxie::io_error if nothing is there, or the archive is of no known format or damaged.
  static FileTree open(const std::filesystem::path& path);

  /// Relative paths with '/' between their parts, ascending by bytes.
  const std::vector<std::string>& files() const { return files_; }
  const std::vector<std::string>& folders() const { return folders_; }
  Index size() const { return static_cast<Index>(files_.size()); }

  /// "directory", "tar", "tar.gz", "tar.xz" or "zip".
  const std::string& container() const { return container_; }
  const std::filesystem::path& root() const { return root_; }
  /// File `i` for messages: where it lies, inside which archive.
  std::string name(Index i) const;

  /// The contents of file `i`; to be taken once.
  Bytes take(Index i);

 private:
  void list_directory();
  void read_archive(ByteView bytes, bool zip);
  void sort();

  std::filesystem::path root_;
  std::string container_;
  std::vector<std::string> files_;
  std::vector<std::string> folders_;
  std::vector<Bytes> contents_;  // of an archive; empty for a directory
};

/// The last part of a path.
std::string_view base_name(std::string_view path);
/// The path without its last part and slash; empty if there is one part only.
std::string_view parent_of(std::string_view path);
/// The parts of a path.
std::vector<std::string_view> split_path(std::string_view path);
/// ASCII letters in lower case.
std::string lower_case(std::string_view text);

}  // namespace vmoe
