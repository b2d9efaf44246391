#include <doctest/doctest.h>

#include <numeric>
#include <string>
#include <vector>

#include "fixtures.hpp"
#include "vmoe/data/dataset.hpp"

using fixtures::Containing;
using fixtures::directory_error;
using fixtures::Files;
using fixtures::idx;
using fixtures::TemporaryFolder;
using fixtures::write_archive;
using fixtures::write_directory;
using vmoe::Bytes;
using vmoe::Dataset;

namespace {

/// 4 training and 2 test images of 2x3 pixels with values 0, 1, 2, ... in 3 classes.
Files small_idx() {
  Bytes pixels(24);
  std::iota(pixels.begin(), pixels.end(), std::uint8_t{0});
  return {{"train-images-idx3-ubyte", idx({4, 2, 3}, pixels)},
          {"train-labels-idx1-ubyte", idx({4}, {2, 0, 1, 0})},
          {"t10k-images-idx3-ubyte", idx({2, 2, 3}, Bytes(12, 9))},
          {"t10k-labels-idx1-ubyte", idx({2}, {1, 2})}};
}

void check_small(const Dataset& data) {
  CHECK(data.train.shape == vmoe::ImageShape{2, 3, 1});
  CHECK(data.train.labels == std::vector<std::int32_t>{2, 0, 1, 0});
  CHECK(data.test.labels == std::vector<std::int32_t>{1, 2});
  CHECK(int{data.train.image(2)[1]} == 13);
  CHECK(data.classes == std::vector<std::string>{"0", "1", "2"});
  CHECK(!data.held_out);
}

}  // namespace

TEST_CASE("IDX files are read plain and compressed") {
  const TemporaryFolder folder;
  Files files = small_idx();
  write_directory(folder / "plain", files);
  const Dataset plain = vmoe::load_dataset(folder / "plain");
  check_small(plain);
  CHECK(plain.format == "IDX (directory)");
  write_archive(folder / "mnist.zip", "zip", files);
  check_small(vmoe::load_dataset(folder / "mnist.zip"));
  for (auto& [name, bytes] : files) {
    name += ".gz";
    bytes = fixtures::gzip(bytes);
  }
  write_directory(folder / "gz", files);
  const Dataset packed = vmoe::load_dataset(folder / "gz");
  check_small(packed);
  CHECK(fingerprint(packed) == fingerprint(plain));
  write_directory(folder / "plain", files);  // both beside each other
  check_small(vmoe::load_dataset(folder / "plain"));
}

TEST_CASE("IDX labels may begin at 1 and test images may be missing") {
  const TemporaryFolder folder;
  write_directory(folder / "data",
                  {{"emnist-train-images-idx3-ubyte", idx({4, 1, 1}, {1, 2, 3, 4})},
                   {"emnist-train-labels-idx1-ubyte", idx({4}, {2, 1, 1, 2})}});
  const Dataset data = vmoe::load_dataset(folder / "data");
  CHECK(data.classes == std::vector<std::string>{"1", "2"});
  CHECK(data.held_out);
  CHECK(data.test.labels == std::vector<std::int32_t>{0, 1});
}

TEST_CASE("IDX errors name the file and what was expected") {
  Files files = small_idx();
  SUBCASE("truncated data") {
    files[0].second.pop_back();
    CHECK(
        directory_error(files) ==
        Containing("/data/train-images-idx3-ubyte: truncated or corrupt IDX file, 23 bytes of data "
                   "came, expected 24"));
  }
  SUBCASE("truncated header") {
    files[1].second.resize(7);
    CHECK(directory_error(files) ==
          Containing(
              "train-labels-idx1-ubyte: truncated IDX file, 7 bytes came, expected a header of 8"));
  }
  SUBCASE("not IDX") {
    files[0].second[3] = 1;
    CHECK(directory_error(files) ==
          Containing("train-images-idx3-ubyte: not an IDX file of bytes (starts with 00 00 08 01), "
                     "expected 00 00 08 03"));
  }
  SUBCASE("sizes that overflow") {
    files[0].second = idx({0xffffffffU, 0xffffffffU, 0xffffffffU}, {1});
    CHECK(directory_error(files) ==
          Containing(
              "train-images-idx3-ubyte: corrupt IDX header, dimension 1 is 4294967295, expected "
              "at least 1 and at most 4096"));
  }
  SUBCASE("no image") {
    files[0].second = idx({0, 2, 3}, {});
    CHECK(directory_error(files) == Containing("dimension 0 is 0, expected at least 1"));
  }
  SUBCASE("truncated gzip") {
    files[0].second = fixtures::gzip(files[0].second);
    files[0].second.resize(files[0].second.size() - 3);
    CHECK(directory_error(files) == Containing("train-images-idx3-ubyte: truncated gzip data, "));
  }
  SUBCASE("counts differ") {
    files[1].second = idx({3}, {0, 1, 2});
    const std::string text = directory_error(files);
    CHECK(text ==
          Containing("train-labels-idx1-ubyte: 3 labels came, expected 4, one for each image "));
    CHECK(text == Containing("/data/train-images-idx3-ubyte"));
  }
  SUBCASE("a training label out of range") {
    files[1].second = idx({4}, {0, 1, 2, 255});
    CHECK(directory_error(files) ==
          Containing(
              "train-labels-idx1-ubyte: labels go up to 255 but none is 3, expected all from 0 "
              "on"));
  }
  SUBCASE("a test label out of range") {
    files[3].second = idx({2}, {1, 3});
    CHECK(
        directory_error(files) ==
        Containing("t10k-labels-idx1-ubyte: image 1 has label 3, expected 0 to 2 as in training"));
  }
  SUBCASE("sizes of training and test differ") {
    files[2].second = idx({2, 3, 2}, Bytes(12, 9));
    CHECK(directory_error(files) == Containing("holds images of 3x2 but "));
  }
  SUBCASE("a file is missing") {
    CHECK(directory_error({files[0], files[2], files[3]}) ==
          Containing("/data: train-labels-idx1-ubyte is missing, expected it"));
    CHECK(directory_error({files[0], files[1], files[3]}) ==
          Containing("/data: t10k-images-idx3-ubyte is missing"));
  }
  SUBCASE("one class") {
    files[1].second = idx({4}, {0, 0, 0, 0});
    files[3].second = idx({2}, {0, 0});
    CHECK(directory_error(files) == Containing("config_error: vmoe::load_dataset: "));
  }
  SUBCASE("two files of one kind") {
    files.emplace_back("other-train-images-idx3-ubyte", files[0].second);
    CHECK(directory_error(files) == Containing("came, expected one file of training images"));
  }
}
