#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "fixtures.hpp"
#include "vmoe/data/dataset.hpp"

using fixtures::Containing;
using fixtures::directory_error;
using fixtures::Files;
using fixtures::TemporaryFolder;
using fixtures::write_archive;
using fixtures::write_directory;
using vmoe::Dataset;

namespace {

/// What small_image_folder() must become, wherever it lies.
void check_small(const Dataset& data, vmoe::Index channels) {
  CHECK(data.classes == std::vector<std::string>{"cat", "dog"});
  CHECK(data.train.shape == vmoe::ImageShape{4, 4, channels});
  CHECK(data.test.shape == data.train.shape);
  CHECK(data.train.count == 6);
  CHECK(data.train.labels == std::vector<std::int32_t>{0, 0, 0, 1, 1, 1});
  CHECK(data.test.labels == std::vector<std::int32_t>{0, 0, 1, 1});
  std::vector<int> values;
  for (vmoe::Index i = 0; i < data.train.count; ++i) values.push_back(data.train.image(i)[5]);
  CHECK(values == std::vector<int>{10, 11, 12, 100, 101, 102});
  values.clear();
  for (vmoe::Index i = 0; i < data.test.count; ++i) values.push_back(data.test.image(i)[15]);
  CHECK(values == std::vector<int>{13, 14, 103, 104});
  CHECK(!data.held_out);
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  text.replace(text.find(what), what.size(), by);
  return text;
}

Files renamed(Files files, const std::string& what, const std::string& by) {
  for (auto& [name, bytes] : files)
    if (name.find(what) != std::string::npos) name = replaced(name, what, by);
  return files;
}

}  // namespace

TEST_CASE("an image folder is read from a directory in the order of its paths") {
  const TemporaryFolder folder;
  write_directory(folder / "data", fixtures::small_image_folder(""));
  const Dataset data = vmoe::load_dataset(folder / "data");
  check_small(data, 3);
  CHECK(data.format == "image folder (directory)");
  CHECK(data.source == (folder / "data").string());
}

TEST_CASE("an image folder is read from archives below outer folders") {
  const TemporaryFolder folder;
  const Dataset plain = [&] {
    write_directory(folder / "data", fixtures::small_image_folder(""));
    return vmoe::load_dataset(folder / "data");
  }();
  for (const std::string format : {"tar", "tar.gz", "tar.xz", "zip"}) {
    for (const std::string top : {"", "./", "cifar10/", "a/b/"}) {
      CAPTURE(format);
      CAPTURE(top);
      const auto path = folder / "any name";  // what it is, is seen from its contents
      write_archive(path, format, fixtures::small_image_folder(top));
      const Dataset data = vmoe::load_dataset(path);
      check_small(data, 3);
      CHECK(data.format == "image folder (" + format + ")");
      CHECK(fingerprint(data) == fingerprint(plain));
    }
  }
}

TEST_CASE("grey images keep one channel and become colour among colour") {
  const TemporaryFolder folder;
  Files files = fixtures::small_image_folder("", false);
  write_directory(folder / "grey", files);
  check_small(vmoe::load_dataset(folder / "grey"), 1);
  files.back().second = fixtures::png(fixtures::flat(4, 4, 3, 103));
  write_directory(folder / "mixed", files);
  check_small(vmoe::load_dataset(folder / "mixed"), 3);
}

TEST_CASE("val stands in for test and yields to it") {
  const TemporaryFolder folder;
  for (const std::string name : {"val/", "valid/", "validation/", "Test/"}) {
    CAPTURE(name);
    write_archive(folder / "data.tar", "tar",
                  renamed(fixtures::small_image_folder(""), "test/", name));
    check_small(vmoe::load_dataset(folder / "data.tar"), 3);
  }
  Files both = fixtures::small_image_folder("");
  both.emplace_back("val/cat/9.png", fixtures::png(fixtures::flat(4, 4, 3, 99)));
  write_archive(folder / "data.tar", "tar", both);
  check_small(vmoe::load_dataset(folder / "data.tar"), 3);
}

TEST_CASE("files that are no images and hidden files are left out") {
  const TemporaryFolder folder;
  Files files = fixtures::small_image_folder("top/");
  files.emplace_back("top/README.md", vmoe::Bytes{'x'});
  files.emplace_back("top/train/cat/list.txt", vmoe::Bytes{'x'});
  files.emplace_back("__MACOSX/top/train/cat/._1.jpg", vmoe::Bytes{'x'});
  files.emplace_back("top/train/cat/._1.jpg", vmoe::Bytes{'x'});
  files.emplace_back("top/.cache/1.jpg", vmoe::Bytes{'x'});
  write_archive(folder / "data.zip", "zip", files);
  check_small(vmoe::load_dataset(folder / "data.zip"), 3);
  write_directory(folder / "data", files);
  check_small(vmoe::load_dataset(folder / "data"), 3);
}

TEST_CASE("links are followed and circles of links end") {
  const TemporaryFolder folder;
  write_directory(folder / "real", fixtures::small_image_folder(""));
  std::filesystem::create_directory(folder / "data");
  std::filesystem::create_directory_symlink(folder / "real/train", folder / "data/train");
  std::filesystem::create_directory_symlink(folder / "real/test", folder / "data/test");
  std::filesystem::create_directory_symlink(folder / "data", folder / "data/again");
  check_small(vmoe::load_dataset(folder / "data"), 3);
}

TEST_CASE("an entry that an archive holds twice counts as its later version") {
  const TemporaryFolder folder;
  Files files = fixtures::small_image_folder("");
  files.insert(files.begin(), {"train/cat/0.jpg", fixtures::jpeg(fixtures::flat(4, 4, 3, 77))});
  write_archive(folder / "data.tar", "tar", files);
  check_small(vmoe::load_dataset(folder / "data.tar"), 3);
}

TEST_CASE("the fingerprint sees pixels labels and names") {
  const TemporaryFolder folder;
  write_directory(folder / "data", fixtures::small_image_folder(""));
  const Dataset data = vmoe::load_dataset(folder / "data");
  const auto print = fingerprint(data);
  Dataset other = data;
  CHECK(fingerprint(other) == print);
  other.train.pixels[3] ^= 128U;
  CHECK(fingerprint(other) != print);
  other = data;
  other.test.labels[0] = 1;
  CHECK(fingerprint(other) != print);
  other = data;
  other.classes[0] = "cot";
  CHECK(fingerprint(other) != print);
}

TEST_CASE("image folder errors name the file and what was expected") {
  Files files = fixtures::small_image_folder("");

  SUBCASE("nothing there") {
    const TemporaryFolder folder;
    CHECK(fixtures::load_error(folder / "none") ==
          "io_error: vmoe::load_dataset: " + (folder / "none").string() +
              ": nothing is there, expected a directory or an archive");
  }
  SUBCASE("empty directory") {
    const std::string text = directory_error({});
    CHECK(text == Containing("io_error: vmoe::load_dataset: "));
    CHECK(text == Containing("/data: unknown format, 0 files in this directory; expected"));
  }
  SUBCASE("no data") {
    CHECK(directory_error({{"b/notes.txt", {1}}, {"a.csv", {1}}}) ==
          Containing("/data: unknown format, 2 files in this directory, the first is 'a.csv'; "
                     "expected <split>/<class>/*.png|jpg|jpeg"));
  }
  SUBCASE("truncated JPEG") {
    auto& [name, bytes] = files[1];
    bytes.resize(bytes.size() - 2);  // only the end marker is missing
    const std::string text = directory_error(files);
    CHECK(text == Containing("io_error: vmoe::load_dataset: "));
    CHECK(text ==
          Containing("/data/train/dog/2.jpg: truncated or corrupt JPEG (Premature end of JPEG "
                     "file), expected a complete image"));
  }
  SUBCASE("no image inside") {
    files[1].second = {'G', 'I', 'F', '8', '9'};
    CHECK(directory_error(files) ==
          Containing("dog/2.jpg: neither PNG nor JPEG (starts with 47 49 46 38), expected one of"));
  }
  SUBCASE("empty file") {
    files[1].second.clear();
    CHECK(directory_error(files) == Containing("dog/2.jpg: the file is empty, expected an image"));
  }
  SUBCASE("different sizes") {
    files[1].second = fixtures::png(fixtures::flat(4, 5, 3, 1));
    const std::string text = directory_error(files);
    CHECK(text == Containing("data/train/dog/2.jpg is 4x5 pixels but "));
    CHECK(text == Containing("data/train/cat/0.jpg is 4x4, expected images of one size"));
  }
  SUBCASE("different sizes in training and test") {
    files[0].second = fixtures::png(fixtures::flat(5, 4, 3, 1));
    CHECK(directory_error(files) == Containing("test/dog/1.png is 5x4 pixels but "));
  }
  SUBCASE("one class") {
    const std::string text = directory_error({files[3], files[5], files[6]});
    CHECK(text == Containing("config_error: vmoe::load_dataset: "));
    CHECK(text == Containing("/data: 1 class came ('cat'), expected at least 2"));
  }
  SUBCASE("no training images") {
    CHECK(directory_error({files[0], files[6]}) ==
          Containing(
              "/data: there are test images but no training images, expected a folder 'train'"));
  }
  SUBCASE("a test class without training images") {
    files.emplace_back("test/bird/0.jpg", files[1].second);
    CHECK(directory_error(files) ==
          Containing("test/bird/0.jpg: class 'bird' has no training images, expected one of the 2 "
                     "classes of the training split"));
  }
  SUBCASE("an empty class") {
    const TemporaryFolder folder;
    write_directory(folder / "data", files);
    std::filesystem::create_directory(folder / "data/train/eel");
    CHECK(
        fixtures::load_error(folder / "data") ==
        Containing("/data: folder 'train/eel' holds no image, expected .png, .jpg or .jpeg files"));
  }
  SUBCASE("an image format that is not read") {
    files.emplace_back("train/cat/7.webp", files[1].second);
    CHECK(
        directory_error(files) ==
        Containing("train/cat/7.webp: '.webp' images are not read, expected .png, .jpg or .jpeg"));
  }
  SUBCASE("an image outside of a class") {
    files.emplace_back("logo.png", files[0].second);
    CHECK(directory_error(files) == Containing("logo.png: the image lies 0 folders below "));
  }
  SUBCASE("an unknown split") {
    CHECK(
        directory_error(renamed(files, "test/", "extra/")) ==
        Containing("extra/cat/0.jpg: 'extra' came where a split was expected: train, test or val"));
  }
  SUBCASE("splits without classes") {
    CHECK(directory_error({{"train/0.png", files[0].second}, {"test/0.png", files[0].second}}) ==
          Containing(
              "test/0.png: the image lies in a split but in no class, expected <split>/<class>/"));
  }
  SUBCASE("two data sets") {
    CHECK(directory_error({{"train.bin", {1}}, {"data_batch_1.bin", {1}}}) ==
          Containing("/data holds both CIFAR-10 and CIFAR-100 files, expected one data set"));
  }
}
