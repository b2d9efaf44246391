#include "moxie/io/atomic_file.hpp"

#include <sys/resource.h>

#include <csignal>

#include "io/folder.hpp"

namespace {

using moxie::test::Folder;
using moxie::test::in_child;
using moxie::test::read_file;
using moxie::test::write_file;

void write_new(const std::filesystem::path& path, const std::string& content = "new") {
  moxie::AtomicFile file(path, "test");
  file.write(content.data(), content.size());
  file.commit();
}

/// Of writing a new file there; empty if that was possible.
std::string error_of(const std::filesystem::path& path, const std::string& content = "new") {
  try {
    write_new(path, content);
  } catch (const moxie::io_error& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("AtomicFile replaces a file when it is whole") {
  const Folder folder;
  write_file(folder / "f", "old");
  {
    moxie::AtomicFile file(folder / "f", "test");
    file.write("ne", 2);
    CHECK(read_file(folder / "f") == "old");
    file.write("w", 1);
    file.commit();
  }
  CHECK(read_file(folder / "f") == "new");
  CHECK(folder.files() == 1);
}

TEST_CASE("AtomicFile without commit leaves everything as it was") {
  const Folder folder;
  write_file(folder / "f", "old");
  {
    moxie::AtomicFile one(folder / "f", "test");
    moxie::AtomicFile two(folder / "f", "test");  // a second one is not in the way
    one.write("new", 3);
    two.write("new", 3);
  }
  CHECK(read_file(folder / "f") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("AtomicFile follows a link and replaces no folder or device") {
  const Folder folder;
  write_file(folder / "real", "old");
  std::filesystem::create_symlink("real", folder / "link");
  write_new(folder / "link");
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(read_file(folder / "real") == "new");

  CHECK(error_of(folder.path()) == "test: '" + folder.path().string() + "' is not a regular file");
  std::filesystem::create_symlink("/dev/null", folder / "null");
  CHECK(error_of(folder / "null") == "test: '/dev/null' is not a regular file");
  CHECK(error_of("/dev/full") == "test: '/dev/full' is not a regular file");
  std::filesystem::create_symlink("nobody", folder / "dangling");
  CHECK(error_of(folder / "dangling").find("cannot follow the link") != std::string::npos);
}

TEST_CASE("AtomicFile reports a folder that is not there or cannot be written") {
  const Folder folder;
  CHECK(error_of(folder / "no/f") == "test: '" + (folder / "no/f").string() +
                                         "': cannot create a file beside it: No such file or "
                                         "directory");
  write_file(folder / "plain", "x");
  CHECK(error_of(folder / "plain/f").find("Not a directory") != std::string::npos);

  write_file(folder / "f", "old");
  std::filesystem::permissions(
      folder.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec |
                         std::filesystem::perms::others_read | std::filesystem::perms::others_exec);
  const int found = in_child([&] {
    // Root may write everywhere.
    if (::geteuid() == 0 && ::setuid(65534) != 0) return 77;
    return error_of(folder / "f").find("Permission denied") != std::string::npos ? 0 : 1;
  });
  CHECK((found == 0 || found == 77));
  CHECK(read_file(folder / "f") == "old");
  CHECK(folder.files() == 2);
}

TEST_CASE("AtomicFile reports a disk that is full and keeps the old file") {
  const Folder folder;
  write_file(folder / "f", "old");
  const int found = in_child([&] {
    // A limit of the process ends a write as a full disk does: in the middle, with an error.
    std::signal(SIGXFSZ, SIG_IGN);
    const ::rlimit limit{100000, 100000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    const std::string error = error_of(folder / "f", std::string(1000000, 'x'));
    return error.find("cannot write: File too large") != std::string::npos ? 0 : 1;
  });
  CHECK(found == 0);
  CHECK(read_file(folder / "f") == "old");
  CHECK(folder.files() == 1);
}
