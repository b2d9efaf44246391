#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "fixtures.hpp"
#include "vmoe/data/dataset.hpp"

using doctest::Contains;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using fixtures::write_directory;
using vmoe::Dataset;

namespace {

/// `<class>/NNN.png` without splits: 20 cats with values 0 to 19, 10 dogs with 100 to 109.
void write_unsplit(const std::filesystem::path& root) {
  fixtures::Files files;
  for (int i = 0; i < 30; ++i) {
    const int number = i < 20 ? i : i - 20;
    const auto value = static_cast<std::uint8_t>(i < 20 ? number : 100 + number);
    const std::string digits = std::to_string(100 + number);  // of one length: sorted by number
    files.emplace_back((i < 20 ? "cat/" : "dog/") + digits + ".png",
                       fixtures::png(fixtures::flat(2, 2, 1, value)));
  }
  write_directory(root, files);
}

std::vector<int> values(const vmoe::ImageSet& set) {
  std::vector<int> out;
  for (vmoe::Index i = 0; i < set.count; ++i) out.push_back(set.image(i)[0]);
  return out;
}

}  // namespace

TEST_CASE("without a test split a share of every class is held out") {
  const TemporaryFolder folder;
  write_unsplit(folder / "data");
  const Dataset data = vmoe::load_dataset(folder / "data", {.seed = 1, .held_out = 0.2});
  CHECK(data.held_out);
  CHECK(std::count(data.test.labels.begin(), data.test.labels.end(), 0) == 4);
  CHECK(std::count(data.test.labels.begin(), data.test.labels.end(), 1) == 2);
  CHECK(data.train.count == 24);

  std::vector<int> train = values(data.train);
  std::vector<int> test = values(data.test);
  CHECK(std::is_sorted(train.begin(), train.end()));
  CHECK(std::is_sorted(test.begin(), test.end()));
  std::set<int> all(train.begin(), train.end());
  all.insert(test.begin(), test.end());
  CHECK(all.size() == 30);
  for (vmoe::Index i = 0; i < data.test.count; ++i)
    CHECK(data.test.labels[vmoe::to_size(i)] == (test[vmoe::to_size(i)] >= 100 ? 1 : 0));
}

TEST_CASE("the held-out images depend on the seed and nothing else") {
  const TemporaryFolder folder;
  write_unsplit(folder / "data");
  const auto held = [&](std::uint64_t seed) {
    return values(vmoe::load_dataset(folder / "data", {.seed = seed, .held_out = 0.2}).test);
  };
  CHECK(held(1) == held(1));
  CHECK(held(1) != held(2));
}

TEST_CASE("a class is never held out whole and gives at least one image") {
  const TemporaryFolder folder;
  write_unsplit(folder / "data");
  CHECK(vmoe::load_dataset(folder / "data", {.held_out = 1e-9}).test.count == 2);
  CHECK(vmoe::load_dataset(folder / "data", {.held_out = 0.999}).train.count == 2);
}

TEST_CASE("a train split alone is taken apart as well") {
  const TemporaryFolder folder;
  write_unsplit(folder / "data/train");
  CHECK(vmoe::load_dataset(folder / "data").test.count == 3);
}

TEST_CASE("a share outside of 0 to 1 is refused where it is needed") {
  const TemporaryFolder folder;
  write_unsplit(folder / "data");
  for (const double share : {0.0, 1.0, -1.0}) {
    CHECK_THROWS_WITH_AS(vmoe::load_dataset(folder / "data", {.held_out = share}),
                         Contains("has no test images, and the share to hold out is"),
                         moxie::config_error);
  }
  write_directory(folder / "split", fixtures::small_image_folder(""));
  CHECK_NOTHROW(vmoe::load_dataset(folder / "split", {.held_out = 0}));
}

TEST_CASE("classes of one image leave nothing to hold out") {
  const TemporaryFolder folder;
  const vmoe::Bytes image = fixtures::png(fixtures::flat(2, 2, 1, 1));
  write_directory(folder / "data", {{"cat/0.png", image}, {"dog/0.png", image}});
  CHECK(fixtures::load_error(folder / "data") ==
        Containing(
            "/data has no test images and 2 training images, expected a class with 2 or more"));
}
