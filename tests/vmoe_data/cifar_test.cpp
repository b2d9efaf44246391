#include <doctest/doctest.h>

#include <numeric>
#include <string>
#include <vector>

#include "fixtures.hpp"
#include "vmoe/data/dataset.hpp"

using fixtures::cifar;
using fixtures::Containing;
using fixtures::directory_error;
using fixtures::Files;
using fixtures::TemporaryFolder;
using fixtures::write_archive;
using fixtures::write_directory;
using vmoe::Bytes;
using vmoe::Dataset;

namespace {

Bytes text(const std::string& lines) { return {lines.begin(), lines.end()}; }

}  // namespace

TEST_CASE("CIFAR-10 binary files are read in the order of their numbers") {
  const TemporaryFolder folder;
  Files files = {{"test_batch.bin", cifar({{3}, {0}}, 200)}};
  for (int n = 11; n >= 1; --n)  // 10 and 11 come before 2 in the order of names
    files.emplace_back("data_batch_" + std::to_string(n) + ".bin",
                       cifar({{static_cast<std::uint8_t>(n % 10)}}, static_cast<std::uint8_t>(n)));
  write_directory(folder / "data", files);
  const Dataset data = vmoe::load_dataset(folder / "data");
  CHECK(data.format == "CIFAR-10 binary (directory)");
  CHECK(data.train.count == 11);
  CHECK(data.train.shape == vmoe::ImageShape{32, 32, 3});
  CHECK(data.train.labels == std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1});
  CHECK(data.train.image(9)[100] == 10);
  CHECK(data.test.labels == std::vector<std::int32_t>{3, 0});
  CHECK(data.test.image(1)[0] == 201);
  CHECK(data.classes.size() == 10);
  CHECK(data.classes[7] == "7");
}

TEST_CASE("CIFAR planes become interleaved pixels") {
  const TemporaryFolder folder;
  Bytes record(3073);
  for (std::size_t p = 0; p < 1024; ++p) {
    record[1 + p] = static_cast<std::uint8_t>(p % 200);
    record[1 + 1024 + p] = static_cast<std::uint8_t>(p % 200 + 1);
    record[1 + 2048 + p] = static_cast<std::uint8_t>(p % 200 + 2);
  }
  write_directory(folder / "data", {{"data_batch_1.bin", record}, {"test_batch.bin", record}});
  const Dataset data = vmoe::load_dataset(folder / "data");
  const std::uint8_t* pixel = data.train.image(0) + 3 * (32 * 5 + 7);  // row 5, column 7: p = 167
  CHECK(int{pixel[0]} == 167);
  CHECK(int{pixel[1]} == 168);
  CHECK(int{pixel[2]} == 169);
}

TEST_CASE("CIFAR-10 is read from an archive with its names") {
  const TemporaryFolder folder;
  write_archive(
      folder / "cifar.tgz", "tar.gz",
      {{"cifar-10-batches-bin/batches.meta.txt", text("a\nb\nc\nd\ne\nf\ng\nh\ni\r\nj\n\n")},
       {"cifar-10-batches-bin/data_batch_1.bin", cifar({{1}}, 1)},
       {"cifar-10-batches-bin/test_batch.bin", cifar({{9}}, 1)},
       {"cifar-10-batches-bin/readme.html", text("x")}});
  const Dataset data = vmoe::load_dataset(folder / "cifar.tgz");
  CHECK(data.format == "CIFAR-10 binary (tar.gz)");
  CHECK(data.classes[0] == "a");
  CHECK(data.classes[8] == "i");
  CHECK(data.classes.size() == 10);
}

TEST_CASE("CIFAR-100 takes the fine labels") {
  const TemporaryFolder folder;
  write_directory(folder / "data", {{"train.bin", cifar({{11, 99}, {3, 42}}, 7)},
                                    {"test.bin", cifar({{5, 0}}, 1)},
                                    {"coarse_label_names.txt", text("x\n")}});
  const Dataset data = vmoe::load_dataset(folder / "data");
  CHECK(data.format == "CIFAR-100 binary (directory)");
  CHECK(data.train.labels == std::vector<std::int32_t>{99, 42});
  CHECK(data.test.labels == std::vector<std::int32_t>{0});
  CHECK(data.train.image(1)[0] == 8);
  CHECK(data.classes.size() == 100);
}

TEST_CASE("CIFAR without test images has some held out") {
  const TemporaryFolder folder;
  write_directory(folder / "data",
                  {{"data_batch_1.bin", cifar({{1}, {1}, {1}, {4}, {4}, {4}}, 7)}});
  const Dataset data = vmoe::load_dataset(folder / "data");
  CHECK(data.held_out);
  CHECK(data.test.labels == std::vector<std::int32_t>{1, 4});
  CHECK(data.train.labels == std::vector<std::int32_t>{1, 1, 4, 4});
}

TEST_CASE("CIFAR errors name the file and what was expected") {
  Bytes whole = cifar({{1}, {2}}, 1);
  SUBCASE("truncated") {
    whole.pop_back();
    CHECK(directory_error({{"data_batch_1.bin", whole}}) ==
          Containing(
              "data_batch_1.bin: truncated or corrupt, 6145 bytes came, expected a multiple of "
              "3073 (CIFAR-10 binary records)"));
  }
  SUBCASE("empty") {
    CHECK(directory_error({{"train.bin", {}}}) ==
          Containing("train.bin: truncated or corrupt, 0 bytes came, expected a multiple of 3074"));
  }
  SUBCASE("label out of range") {
    whole[3073] = 10;
    CHECK(directory_error({{"data_batch_1.bin", cifar({{1}}, 1)}, {"test_batch.bin", whole}}) ==
          Containing("test_batch.bin: image 1 has label 10, expected 0 to 9"));
    CHECK(directory_error({{"train.bin", cifar({{0, 100}}, 1)}}) ==
          Containing("train.bin: image 0 has label 100, expected 0 to 99"));
  }
  SUBCASE("a batch is missing") {
    CHECK(directory_error({{"data_batch_1.bin", whole}, {"data_batch_3.bin", whole}}) ==
          Containing("/data: data_batch_2.bin is missing, expected data_batch_1.bin and on"));
    CHECK(directory_error({{"test_batch.bin", whole}}) ==
          Containing("/data: data_batch_1.bin is missing"));
    CHECK(directory_error({{"test.bin", whole}}) ==
          Containing("/data: train.bin is missing, expected it beside test.bin"));
  }
  SUBCASE("a file twice") {
    const std::string error =
        directory_error({{"a/data_batch_1.bin", whole}, {"b/data_batch_1.bin", whole}});
    CHECK(error == Containing("both "));
    CHECK(error == Containing("b/data_batch_1.bin came, expected one data_batch_1.bin"));
  }
  SUBCASE("names") {
    CHECK(directory_error({{"data_batch_1.bin", whole}, {"batches.meta.txt", text("a\nb\n")}}) ==
          Containing("batches.meta.txt: 2 class names came, expected 10"));
  }
}
