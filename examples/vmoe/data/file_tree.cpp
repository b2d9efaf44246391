#include "file_tree.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "archive_reader.hpp"
#include "compression.hpp"
#include "moxie/core/error.hpp"

namespace vmoe {
namespace {

namespace fs = std::filesystem;

bool is_hidden(std::string_view part) { return part.front() == '.' || part == "__MACOSX"; }

/// "./a//b" to "a/b"; nothing for hidden files, and for paths that leave the archive by "..".
std::optional<std::string> clean_path(std::string_view path) {
  std::string clean;
  for (const std::string_view part : split_path(path)) {
    if (part == ".") continue;
    if (is_hidden(part)) return std::nullopt;
    if (!clean.empty()) clean += '/';
    clean += part;
  }
  if (clean.empty()) return std::nullopt;
  return clean;
}

/// Lists a directory and all below it. Follows links, as data sets are often made of them.
class DirectoryLister {
 public:
  DirectoryLister(std::vector<std::string>& files, std::vector<std::string>& folders)
      : files_(files), folders_(folders) {}

  void list(const fs::path& directory, const std::string& prefix) {
    std::error_code failure;
    const fs::path real = fs::canonical(directory, failure);
    // A link to a folder that we are in would lead in circles.
    if (std::find(above_.begin(), above_.end(), real) != above_.end()) return;
    above_.push_back(real);
    fs::directory_iterator it(directory, failure);
    for (; !failure && it != fs::directory_iterator(); it.increment(failure)) {
      const std::string part = it->path().filename().string();
      if (is_hidden(part)) continue;
      std::error_code unknown;
      if (it->is_directory(unknown)) {
        folders_.push_back(prefix + part);
        list(it->path(), prefix + part + '/');
      } else {
        files_.push_back(prefix + part);
      }
    }
    if (failure) {
      moxie::throw_io("vmoe::load_dataset: ", directory.string(), ": ", failure.message(),
                      ", expected a readable directory");
    }
    above_.pop_back();
  }

 private:
  std::vector<std::string>& files_;
  std::vector<std::string>& folders_;
  std::vector<fs::path> above_;
};

/// The contents of the current entry.
Bytes read_entry(archive* reader, const std::string& name, std::size_t limit) {
  constexpr std::size_t first_chunk = 4096;  // never what a header claims: that may be damaged
  Bytes bytes(first_chunk);
  std::size_t filled = 0;
  for (;;) {
    if (filled == bytes.size()) bytes.resize(2 * bytes.size());
    const la_ssize_t got = archive_read_data(reader, bytes.data() + filled, bytes.size() - filled);
    if (got < 0) {
      moxie::throw_io("vmoe::load_dataset: ", name, ": truncated or corrupt archive (",
                      archive_message(reader), "), expected a complete file");
    }
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    if (filled > limit) {
      moxie::throw_io("vmoe::load_dataset: ", name, ": expands to more than ", limit,
                      " bytes, expected image data");
    }
  }
  bytes.resize(filled);
  bytes.shrink_to_fit();
  return bytes;
}

/// A tar file ends with two blocks of zeros. libarchive accepts one without, which is what a file
/// cut off between two entries looks like.
bool has_tar_end(ByteView bytes) {
  constexpr std::size_t end_blocks = 1024;
  if (bytes.size() < end_blocks) return false;
  const ByteView end = bytes.last(end_blocks);
  return std::all_of(end.begin(), end.end(), [](std::uint8_t b) { return b == 0; });
}

bool is_zip(ByteView bytes) {
  if (bytes.size() < 4 || bytes[0] != 'P' || bytes[1] != 'K') return false;
  return (bytes[2] == 3 && bytes[3] == 4) || (bytes[2] == 5 && bytes[3] == 6);  // 5 6: no entries
}

}  // namespace

FileTree FileTree::open(const fs::path& path) {
  FileTree tree;
  tree.root_ = path;
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  if (!fs::exists(status)) {
    moxie::throw_io("vmoe::load_dataset: ", path.string(),
                    ": nothing is there, expected a directory or an archive");
  }
  if (fs::is_directory(status)) {
    tree.container_ = "directory";
    tree.list_directory();
  } else {
    Bytes bytes = read_file(path);
    if (bytes.empty()) {
      moxie::throw_io("vmoe::load_dataset: ", path.string(),
                      ": the file is empty, expected a directory or an archive");
    }
    const Compression compression = compression_of(bytes);
    if (compression != Compression::none) bytes = decompress(bytes, path.string());
    const bool zip = compression == Compression::none && is_zip(bytes);
    tree.container_ = zip                                ? "zip"
                      : compression == Compression::gzip ? "tar.gz"
                      : compression == Compression::xz   ? "tar.xz"
                                                         : "tar";
    tree.read_archive(bytes, zip);
  }
  tree.sort();
  return tree;
}

void FileTree::list_directory() { DirectoryLister(files_, folders_).list(root_, ""); }

void FileTree::read_archive(ByteView bytes, bool zip) {
  const ArchiveReader reader = make_archive_reader();
  if (zip) {
    // By the directory at the end only: read as a stream, a file without its end would pass.
    archive_read_support_format_zip_seekable(reader.get());
  } else {
    archive_read_support_format_tar(reader.get());
  }
  bool any = false;
  const auto fail = [&]() {
    if (!any && !zip) {  // a tar file has no signature: what is no tar looks like a damaged one
      moxie::throw_io("vmoe::load_dataset: ", root_.string(), ": unknown format (",
                      container_ == "tar" ? "" : "expands to what ", "starts with ",
                      first_bytes(bytes),
                      "), expected a directory or a .tar, .tar.gz, .tar.xz or .zip archive");
    }
    moxie::throw_io("vmoe::load_dataset: ", root_.string(), ": truncated or corrupt archive (",
                    archive_message(reader.get()), "), expected a valid ", container_, " file");
  };
  if (archive_read_open_memory(reader.get(), bytes.data(), bytes.size()) != ARCHIVE_OK) fail();
  std::size_t limit = expansion_limit(bytes.size());
  for (;;) {
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(reader.get(), &entry);
    if (status == ARCHIVE_EOF) break;
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) fail();  // warnings are about names
    any = true;
    const char* raw = archive_entry_pathname_utf8(entry);
    if (raw == nullptr) raw = archive_entry_pathname(entry);
    if (raw == nullptr) fail();
    std::optional<std::string> path = clean_path(raw);
    if (!path) continue;
    if (archive_entry_filetype(entry) == AE_IFDIR) {
      folders_.push_back(*std::move(path));
    } else if (archive_entry_filetype(entry) == AE_IFREG) {
      contents_.push_back(read_entry(reader.get(), root_.string() + ": " + *path, limit));
      limit -= contents_.back().size();
      files_.push_back(*std::move(path));
    }
  }
  if (!zip && !has_tar_end(bytes)) {
    moxie::throw_io("vmoe::load_dataset: ", root_.string(), ": truncated or corrupt archive, ",
                    bytes.size(), " bytes of tar came, expected two blocks of zeros at their end");
  }
}

void FileTree::sort() {
  std::sort(folders_.begin(), folders_.end());
  folders_.erase(std::unique(folders_.begin(), folders_.end()), folders_.end());
  if (container_ == "directory") {
    std::sort(files_.begin(), files_.end());
    return;
  }
  std::vector<std::size_t> order(files_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return files_[a] < files_[b]; });
  std::vector<std::string> files;
  std::vector<Bytes> contents;
  for (const std::size_t i : order) {
    if (!files.empty() && files.back() == files_[i]) {  // a later entry replaces an earlier one
      contents.back() = std::move(contents_[i]);
      continue;
    }
    files.push_back(std::move(files_[i]));
    contents.push_back(std::move(contents_[i]));
  }
  files_ = std::move(files);
  contents_ = std::move(contents);
}

std::string FileTree::name(Index i) const {
  const std::string& file = files_[to_size(i)];
  return container_ == "directory" ? (root_ / file).string() : root_.string() + ": " + file;
}

Bytes FileTree::take(Index i) {
  if (container_ == "directory") return read_file(root_ / files_[to_size(i)]);
  return std::move(contents_[to_size(i)]);
}

std::string_view base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

std::string_view parent_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

std::vector<std::string_view> split_path(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    if (slash > 0) parts.push_back(path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return parts;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

}  // namespace vmoe
