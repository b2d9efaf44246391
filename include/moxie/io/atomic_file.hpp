#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "moxie/core/error.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define MOXIE_POSIX_FILES 1
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#define MOXIE_POSIX_FILES 0
#endif

namespace moxie {

/// Writes a file that is either the old one or the whole new one, whatever happens: into a
/// temporary file of the same directory, which takes the place of the target when `commit` has it
/// on the disk. Without `commit` the target stays as it is and the temporary file is removed.
///
/// Errors, all io_error with the system's text: a folder that cannot be written, a full disk, a
/// target that is no regular file. A link is followed.
class AtomicFile {
 public:
  /// `who` begins the messages; it must outlive the object.
  AtomicFile(std::filesystem::path target, const char* who)
      : who_(who), target_(std::move(target)) {
    std::error_code error;
    auto kind = std::filesystem::symlink_status(target_, error);
    if (std::filesystem::is_symlink(kind)) {
      const auto real = std::filesystem::canonical(target_, error);
      if (error) fail("cannot follow the link", error);
      target_ = real;
      kind = std::filesystem::status(target_, error);
    }
    if (std::filesystem::exists(kind) && !std::filesystem::is_regular_file(kind))
      throw_io(who_, ": '", target_.string(), "' is not a regular file");
    open();
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    close();
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove(temporary_, ignored);
  }

  void write(const void* data, std::size_t bytes) {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const std::size_t written = write_some(from, bytes);
      from += written;
      bytes -= written;
    }
  }

  /// Puts the file in the target's place. Nothing can be written after it.
  void commit() {
    sync();
    std::error_code error;
    std::filesystem::rename(temporary_, target_, error);
    if (error) fail("cannot rename the finished file to it", error);
    temporary_.clear();
    sync_folder();
  }

 private:
  [[noreturn]] void fail(const char* what, std::error_code error) const {
    throw_io(who_, ": '", target_.string(), "': ", what, ": ", error.message());
  }
  [[noreturn]] void fail(const char* what) const {
    fail(what, std::error_code(errno, std::generic_category()));
  }
  std::filesystem::path temporary_name(long long process, int attempt) const {
    std::filesystem::path name = target_;
    name += ".tmp." + std::to_string(process) + "." + std::to_string(attempt);
    return name;
  }

#if MOXIE_POSIX_FILES
  void open() {
    for (int attempt = 0;; ++attempt) {
      const auto name = temporary_name(::getpid(), attempt);
      file_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (file_ >= 0) {
        temporary_ = name;
        return;
      }
      if (errno != EEXIST || attempt == 1000) fail("cannot create a file beside it");
    }
  }
  std::size_t write_some(const char* from, std::size_t bytes) {
    constexpr std::size_t most = std::size_t{1} << 30U;  // some systems take no more in a call
    for (;;) {
      const ::ssize_t n = ::write(file_, from, bytes < most ? bytes : most);
      if (n > 0) return static_cast<std::size_t>(n);
      if (n == 0) errno = ENOSPC;
      if (n == 0 || errno != EINTR) fail("cannot write");
    }
  }
  void sync() {
    // EINVAL and ENOTSUP: a file system without the notion of it.
    if (::fsync(file_) != 0 && errno != EINVAL && errno != ENOTSUP)
      fail("cannot bring it to the disk");
    if (::close(std::exchange(file_, -1)) != 0) fail("cannot close");
  }
  /// The name is durable only when the folder is. A folder that may be written but not read cannot
  /// be synced.
  void sync_folder() {
    std::filesystem::path folder = target_.parent_path();
    if (folder.empty()) folder = ".";
    const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0) return;
    const int failed = ::fsync(opened) != 0 ? errno : 0;
    ::close(opened);
    if (failed != 0 && failed != EINVAL && failed != ENOTSUP)
      fail("cannot bring its folder to the disk", {failed, std::generic_category()});
  }
  void close() noexcept {
    if (file_ >= 0) ::close(file_);
  }
  int file_ = -1;
#else
  void open() {
    const auto name = temporary_name(0, 0);
    file_ = std::fopen(name.string().c_str(), "wb");
    if (file_ == nullptr) fail("cannot create a file beside it");
    temporary_ = name;
  }
  std::size_t write_some(const char* from, std::size_t bytes) {
    const std::size_t n = std::fwrite(from, 1, bytes, file_);
    if (n == 0) fail("cannot write");
    return n;
  }
  void sync() {
    const bool flushed = std::fflush(file_) == 0;
    if (std::fclose(std::exchange(file_, nullptr)) != 0 || !flushed) fail("cannot write");
  }
  void sync_folder() {}
  void close() noexcept {
    if (file_ != nullptr) std::fclose(file_);
  }
  std::FILE* file_ = nullptr;
#endif

  const char* who_;
  std::filesystem::path target_;
  std::filesystem::path temporary_;
};

}  // namespace moxie
