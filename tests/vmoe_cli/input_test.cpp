#include <doctest/doctest.h>

#include <fstream>

#include "program.hpp"

using namespace cli;
using fixtures::Bytes;
using fixtures::Containing;
using fixtures::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

enum Code { failed = 1, usage = 2 };

/// Trains on what is there and expects an error with `name` and `what`, and no run.
void refuse(const TemporaryFolder& folder, const fs::path& data, Code code, const std::string& name,
            const std::string& what) {
  const Ending ending = run(train(data, folder / "run"));
  INFO(ending.err);
  CHECK(ending.code == code);
  CHECK(ending.err == Containing(name));
  CHECK(ending.err == Containing(what));
  CHECK_FALSE(fs::exists(folder / "run"));
}

void cut(const fs::path& file) { fs::resize_file(file, fs::file_size(file) / 2); }

}  // namespace

TEST_CASE("missing and empty data are refused by path") {
  const TemporaryFolder folder;
  refuse(folder, folder / "none", failed, (folder / "none").string(),
         "nothing is there, expected a directory or an archive");
  fs::create_directory(folder / "empty");
  refuse(folder, folder / "empty", failed, (folder / "empty").string(),
         "unknown format, 0 files in this directory; expected <split>/<class>/");
  std::ofstream(folder / "void.tar");
  refuse(folder, folder / "void.tar", failed, "void.tar",
         ": the file is empty, expected a directory or an archive");
}

TEST_CASE("a checkpoint that is nowhere is refused by what was expected") {
  const TemporaryFolder folder;
  const std::string nowhere = folder / "nowhere";
  const auto check = [&](const Arguments& arguments) {
    CAPTURE(arguments.front());
    const Ending ending = run(arguments);
    CHECK(ending.code == 1);
    CHECK(ending.err == "error: vmoe: there is no '" + nowhere +
                            "', expected a run's folder or a checkpoint file\n");
  };
  for (const char* command : {"eval", "attack", "certify", "stability"}) check({command, nowhere});
  check({"dual", nowhere, folder / "other"});
  check({"report", nowhere, folder / "other"});
  check({"upcycle", nowhere, "--out", folder / "run"});
  // Before data are read: there are none
  for (const char* start : {"--warm-standard", "--warm-robust"})
    check(train_mixture(folder / "data", folder / "run", "jtdmoe") + Arguments{start, nowhere});
  CHECK_FALSE(std::filesystem::exists(folder / "run"));
}

TEST_CASE("damaged images and archives are refused by file") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  cut(data / "train" / "dog" / "3.png");
  refuse(folder, data, failed, "3.png", "truncated");
  std::ofstream(data / "train" / "dog" / "3.png") << "this is no picture";
  refuse(folder, data, failed, "3.png", ": neither PNG nor JPEG (starts with ");
  for (const auto& [format, what] : {std::pair{"tar", "truncated or corrupt archive ("},
                                     {"tar.gz", "images.tar.gz: truncated gzip data, "},
                                     {"tar.xz", "images.tar.xz: truncated or corrupt xz data ("},
                                     {"zip", "images.zip: truncated or corrupt archive ("}}) {
    const std::string name = std::string("images.") + format;
    fixtures::write_archive(folder / name, format, fixtures::small_image_folder("top"));
    cut(folder / name);
    refuse(folder, folder / name, failed, name, what);
  }
}

TEST_CASE("images of different sizes are refused") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  fixtures::write_file(data / "train" / "cat" / "big.png",
                       fixtures::png(fixtures::flat(12, 8, 3, 9)));
  refuse(folder, data, failed, "big.png", "expected images of one size");
}

TEST_CASE("labels out of range and cut binary files are refused by file") {
  const TemporaryFolder folder;
  const fs::path cifar = folder / "cifar";
  fixtures::write_file(cifar / "test_batch.bin", fixtures::cifar({{0}, {1}}, 1));
  fixtures::write_file(cifar / "data_batch_1.bin", fixtures::cifar({{3}, {10}}, 1));
  refuse(folder, cifar, failed, "data_batch_1.bin", ": image 1 has label 10, expected 0 to 9");
  fixtures::write_file(cifar / "data_batch_1.bin", fixtures::cifar({{3}, {9}}, 1));
  cut(cifar / "data_batch_1.bin");
  fs::resize_file(cifar / "data_batch_1.bin", 3073 + 5);
  refuse(folder, cifar, failed, "data_batch_1.bin",
         ": truncated or corrupt, 3078 bytes came, expected a multiple of 3073");

  const fs::path idx = folder / "idx";
  fixtures::write_file(idx / "train-images-idx3-ubyte", fixtures::idx({4, 8, 8}, Bytes(256, 1)));
  fixtures::write_file(idx / "train-labels-idx1-ubyte", fixtures::idx({4}, {0, 1, 0, 1}));
  cut(idx / "train-images-idx3-ubyte");
  refuse(folder, idx, failed, "train-images-idx3-ubyte",
         ": truncated or corrupt IDX file, 120 bytes of data came, expected 256");
  fixtures::write_file(idx / "train-images-idx3-ubyte", fixtures::idx({4, 8, 8}, Bytes(256, 1)));
  fixtures::write_file(idx / "train-labels-idx1-ubyte", fixtures::idx({3}, {0, 1, 0}));
  refuse(folder, idx, failed, "train-labels-idx1-ubyte",
         ": 3 labels came, expected 4, one for each image of ");
}

TEST_CASE(
    "a loss or gradient that is not finite stops the run and keeps the last good checkpoint") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments wild{"--learning-rate", "1e30", "--clip", "0", "--checkpoint-every", "1"};
  const auto diverge = [&](const fs::path& out, const Arguments& more) {
    const Ending ending = run(train(data, out) + wild + more);
    CHECK(ending.code == 1);
    CHECK(ending.err == Containing("error: vmoe train: in step "));
    const fs::path last = newest_checkpoint(out);
    CHECK(ending.err == Containing("the last good checkpoint stays: '" + last.string() + "'"));
    for (const auto& [name, bytes] : tensors(last)) {
      if (name.ends_with("/step")) continue;
      std::vector<float> values(bytes.size() / sizeof(float));
      std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
      CHECK(std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }));
    }
    return ending.err;
  };
  CHECK(diverge(folder / "moe", {}) == Containing("the gate's logits of token"));
  CHECK(diverge(folder / "dense", {"--moe", "none"}) ==
        Containing("is not finite, first at element"));
}
