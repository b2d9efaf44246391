#include <doctest/doctest.h>

#include "program.hpp"

using namespace cli;
using fixtures::Bytes;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

namespace {

/// Trains, and expects success and a report.
void must_train(const Arguments& arguments, const std::filesystem::path& out) {
  const Ending ending = run(arguments);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(std::filesystem::file_size(out / "report.html") > 10000);
}

}  // namespace

TEST_CASE("eval of a run or of its checkpoint gives the figures of the training run's last line") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  const auto data =
      write_images(folder / "data", 16, 7);  // 21 test images: a last batch that is cut
  must_train(train(data, out) + Arguments{"--json", folder / "train.json"}, out);
  const json last = metrics(out).back();
  CHECK(last.at("event") == "final");
  CHECK(json::parse(read_file(folder / "train.json")) == last);

  for (const std::filesystem::path& checkpoint : {out, newest_checkpoint(out)}) {
    const Ending ending = run({"eval", checkpoint, "--threads", "2", "--json", folder / "e.json"});
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    const json figures = json::parse(ending.out);
    CHECK(figures == json::parse(read_file(folder / "e.json")));
    CHECK(figures.at("images") == 21);
    for (const char* key : {"step", "loss", "accuracy", "dropped", "layers"})
      CHECK(figures.at(key) == last.at(key));
  }
}

TEST_CASE("eval takes other images of the same classes and refuses those of others") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  must_train(train(write_images(folder / "data"), out), out);
  const auto grey = write_images(folder / "grey", 2, 4, 1);
  const Ending ending = run({"eval", out, "--data", grey});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(json::parse(ending.out).at("images") == 12);

  std::filesystem::rename(grey / "test" / "dog", grey / "test" / "fox");
  std::filesystem::rename(grey / "train" / "dog", grey / "train" / "fox");
  const Ending other = run({"eval", out, "--data", grey});
  CHECK(other.code == 2);
  CHECK(other.err ==
        Containing("class 1 of '" + grey.string() + "' is 'emu', the model expects 'dog'"));

  fixtures::write_directory(folder / "small", fixtures::small_image_folder(""));
  const Ending small = run({"eval", out, "--data", folder / "small"});
  CHECK(small.code == 2);
  CHECK(small.err == Containing("has images of 4x4x3 in 2 classes, the model expects 8x8x3 in 3"));
}

TEST_CASE("a result does not depend on the number of threads") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  for (const char* threads : {"1", "3"})
    must_train(train(data, folder / threads) +
                   Arguments{"--threads", threads, "--mixup", "0.2", "--priority", "bpr"},
               folder / threads);
  CHECK(tensors(newest_checkpoint(folder / "1")) == tensors(newest_checkpoint(folder / "3")));
  const json one = metrics(folder / "1").back(), three = metrics(folder / "3").back();
  for (const char* key : {"loss", "accuracy", "layers"}) CHECK(one.at(key) == three.at(key));
}

TEST_CASE("the dense twin has the same active FLOPs but for the router's") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  must_train(train(data, folder / "moe"), folder / "moe");
  must_train(train(data, folder / "dense") + Arguments{"--dense"}, folder / "dense");
  const json moe = config_of(folder / "moe").at("model");
  const json dense = config_of(folder / "dense").at("model");
  CHECK(moe.at("kind") == "mixture of experts");
  CHECK(dense.at("kind") == "dense");
  CHECK(dense.at("dense_hidden") == 32);  // K = 2 experts of 16
  // 5 tokens or 4, as the preset pools; 2 FLOPs for each of 16 x 4 elements of the gate
  const double router = 2.0 * moe.at("tokens").get<double>() * 16 * 4;
  CHECK(moe.at("active_flops_per_image").get<double>() ==
        dense.at("active_flops_per_image").get<double>() + router);
  CHECK(metrics(folder / "dense").back().at("layers").empty());
  CHECK_FALSE(std::filesystem::exists(folder / "dense" / "routing.json"));
  const auto twin = tensors(newest_checkpoint(folder / "dense"));
  CHECK(std::none_of(twin.begin(), twin.end(),
                     [](const auto& t) { return t.first.find("Moe") != std::string::npos; }));
}

TEST_CASE("grey images have one channel unless the model asks for three") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data", 16, 5, 1);
  must_train(train(data, folder / "grey"), folder / "grey");
  must_train(train(data, folder / "colour") + Arguments{"--channels", "3"}, folder / "colour");
  CHECK(config_of(folder / "grey").at("model").at("channels") == 1);
  CHECK(config_of(folder / "colour").at("model").at("channels") == 3);
  CHECK(config_of(folder / "colour").at("data").at("channels") == 1);
  const Ending ending = run({"eval", folder / "colour"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(json::parse(ending.out).at("loss") == metrics(folder / "colour").back().at("loss"));
}

TEST_CASE("CIFAR-100 and IDX files are trained on end to end") {
  const TemporaryFolder folder;
  std::vector<std::vector<std::uint8_t>> labels;
  for (std::uint8_t i = 0; i < 24; ++i) labels.push_back({0, static_cast<std::uint8_t>(i % 6)});
  fixtures::write_file(folder / "cifar" / "train.bin", fixtures::cifar(labels, 3));
  fixtures::write_file(folder / "cifar" / "test.bin", fixtures::cifar(labels, 9));
  must_train(train(folder / "cifar", folder / "c") + Arguments{"--patch", "16", "--epochs", "2"},
             folder / "c");
  CHECK(config_of(folder / "c").at("data").at("format") == Containing("CIFAR-100"));
  CHECK(config_of(folder / "c").at("data").at("classes").size() == 100);

  Bytes pixels, digits;
  for (int i = 0; i < 24; ++i) {
    digits.push_back(static_cast<std::uint8_t>(i % 3));
    for (int p = 0; p < 64; ++p) pixels.push_back(static_cast<std::uint8_t>(80 * (i % 3) + p));
  }
  for (const std::string& split : {std::string("train"), std::string("t10k")}) {
    fixtures::write_file(folder / "idx" / (split + "-images-idx3-ubyte"),
                         fixtures::idx({24, 8, 8}, pixels));
    fixtures::write_file(folder / "idx" / (split + "-labels-idx1-ubyte"),
                         fixtures::idx({24}, digits));
  }
  must_train(train(folder / "idx", folder / "i") + Arguments{"--channels", "3"}, folder / "i");
  CHECK(config_of(folder / "i").at("data").at("format") == Containing("IDX"));
  CHECK(config_of(folder / "i").at("model").at("channels") == 3);
}
