#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "fixtures.hpp"
#include "vmoe/data/compression.hpp"
#include "vmoe/data/dataset.hpp"

using doctest::Contains;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using fixtures::write_archive;
using fixtures::write_file;
using vmoe::Bytes;

namespace {

/// An archive of the small image folder, as bytes.
Bytes archive_bytes(const TemporaryFolder& folder, const std::string& format) {
  write_archive(folder / "whole", format, fixtures::small_image_folder("top/"));
  return vmoe::read_file(folder / "whole");
}

std::string error_of(const TemporaryFolder& folder, const Bytes& bytes) {
  write_file(folder / "data", bytes);
  return fixtures::load_error(folder / "data");
}

Bytes first(const Bytes& bytes, std::size_t size) {
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)};
}

}  // namespace

TEST_CASE("a file of no known format is refused with its first bytes") {
  const TemporaryFolder folder;
  CHECK(error_of(folder, {'%', 'P', 'D', 'F', '-'}) ==
        "io_error: vmoe::load_dataset: " + (folder / "data").string() +
            ": unknown format (starts with 25 50 44 46), expected a directory or a .tar, .tar.gz, "
            ".tar.xz or .zip archive");
  CHECK(error_of(folder, fixtures::gzip({'%', 'P', 'D', 'F', '-'})) ==
        Containing("unknown format (expands to what starts with 25 50 44 46)"));
  CHECK(error_of(folder, {}) ==
        Containing("/data: the file is empty, expected a directory or an archive"));
}

TEST_CASE("an archive without data is refused") {
  const TemporaryFolder folder;
  write_archive(folder / "data", "zip", {{"a.txt", {1}}});
  CHECK(fixtures::load_error(folder / "data") == Containing("unknown format, 1 files in this zip"));
  write_archive(folder / "data", "tar", {});
  CHECK(fixtures::load_error(folder / "data") == Containing("unknown format, 0 files in this tar"));
}

TEST_CASE("a truncated archive is refused wherever it was cut") {
  for (const std::string format : {"tar", "tar.gz", "tar.xz", "zip"}) {
    const TemporaryFolder folder;
    const Bytes bytes = archive_bytes(folder, format);
    const std::size_t step = format == "tar" ? 256 : 61;
    // The last bytes of a tar file are padding.
    const std::size_t longest = format == "tar" ? bytes.size() - 9 * 1024 : bytes.size() - 1;
    for (std::size_t size = 1; size < longest; size += step) {
      CAPTURE(format);
      CAPTURE(size);
      const std::string text = error_of(folder, first(bytes, size));
      CHECK(text == Containing("io_error: vmoe::load_dataset: " + (folder / "data").string()));
      CHECK(text == Containing("expected"));
    }
    if (format != "tar") CHECK(error_of(folder, first(bytes, bytes.size() - 1)) != "");
  }
}

TEST_CASE("truncated archives say what they are") {
  const TemporaryFolder folder;
  Bytes bytes = archive_bytes(folder, "tar.gz");
  CHECK(error_of(folder, first(bytes, bytes.size() / 2)) ==
        Containing("/data: truncated gzip data, "));
  bytes = archive_bytes(folder, "tar.xz");
  CHECK(error_of(folder, first(bytes, bytes.size() / 2)) ==
        Containing("/data: truncated or corrupt xz data ("));
  bytes = archive_bytes(folder, "tar");
  CHECK(error_of(folder, first(bytes, 900)) ==
        Containing("top/test/dog/1.png: truncated or corrupt archive ("));
  bytes = archive_bytes(folder, "zip");
  CHECK(error_of(folder, first(bytes, bytes.size() / 2)) ==
        Containing("truncated or corrupt archive ("));
}

TEST_CASE("a tar file cut between two entries is refused") {
  const TemporaryFolder folder;
  const Bytes bytes = archive_bytes(folder, "tar");
  const std::string name = "top/train/dog/2.jpg";  // the second entry
  const auto at = std::search(bytes.begin(), bytes.end(), name.begin(), name.end());
  const std::string text =
      error_of(folder, first(bytes, static_cast<std::size_t>(at - bytes.begin())));
  CHECK(text == Containing("bytes of tar came, expected two blocks of zeros at their end"));
}

TEST_CASE("any damaged byte of an archive gives data or an error and never a crash") {
  for (const std::string format : {"tar", "tar.gz", "tar.xz", "zip"}) {
    const TemporaryFolder folder;
    const Bytes bytes = archive_bytes(folder, format);
    const std::size_t step = bytes.size() / 150 + 1;
    int refused = 0;
    int tried = 0;
    for (std::size_t at = 0; at < bytes.size(); at += step, ++tried) {
      CAPTURE(format);
      CAPTURE(at);
      Bytes damaged = bytes;
      damaged[at] ^= 0x55U;
      const std::string text = error_of(folder, damaged);
      if (!text.empty()) ++refused;
      if (!text.empty()) CHECK(text == Containing("expected"));
      // These two have checksums over everything; gzip not over the time in its header.
      if (format == "tar.xz" || (format == "tar.gz" && at > 9)) CHECK(!text.empty());
    }
    CHECK(refused > tried / 20);
  }
}

TEST_CASE("gzip data may come in members and padded but not followed by something else") {
  const Bytes one = {1, 2, 3};
  Bytes two = fixtures::gzip(one);
  const Bytes member = two;
  two.insert(two.end(), member.begin(), member.end());
  CHECK(vmoe::decompress(two, "f") == Bytes{1, 2, 3, 1, 2, 3});
  two.insert(two.end(), 20, 0);
  CHECK(vmoe::decompress(two, "f") == Bytes{1, 2, 3, 1, 2, 3});
  two.push_back(7);
  CHECK_THROWS_WITH_AS(vmoe::decompress(two, "f"),
                       "vmoe::load_dataset: f: 21 bytes follow the gzip data, expected its end",
                       moxie::io_error);
  Bytes wrong = member;
  wrong[wrong.size() - 5] ^= 1U;  // checksum
  CHECK_THROWS_WITH_AS(vmoe::decompress(wrong, "f"),
                       "vmoe::load_dataset: f: corrupt gzip data (incorrect data check), expected "
                       "a valid gzip file",
                       moxie::io_error);
}

TEST_CASE("data that expands without end is refused") {
  const std::size_t size = vmoe::expansion_limit(100'000);
  const Bytes bomb = fixtures::gzip(Bytes(size, 0));
  CHECK(bomb.size() < 100'000);
  CHECK_THROWS_WITH_AS(vmoe::decompress(bomb, "f"), Contains("bytes expand to more than"),
                       moxie::io_error);
}
