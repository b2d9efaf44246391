// vmoe upcycle: a dense run becomes the start of one with experts.
#include <doctest/doctest.h>

#include <filesystem>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

namespace {

json evaluated(const std::filesystem::path& run_or_file) {
  const Ending ending = run({"eval", run_or_file, "--threads", "1"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  return json::parse(ending.out);
}

}  // namespace

TEST_CASE("at step 0 the upcycled model gives what the dense one gives, and training goes on") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "dense") + Arguments{"--dense", "--k", "1"}).code == 0);
  const Arguments wanted{"--experts", "4", "--k", "2", "--epochs", "2"};
  const Ending made = run(Arguments{"upcycle", folder / "dense", "--out", folder / "moe"} + wanted);
  REQUIRE_MESSAGE(made.code == 0, made.err);
  const json report = json::parse(made.out);
  CHECK(report.at("repeated") == 4);  // two kernels and two biases of the one block with experts
  CHECK(report.at("initialized").size() == 1);
  CHECK(report.at("initialized")[0].get<std::string>() == Containing("Router/kernel"));

  const json dense = evaluated(folder / "dense"), moe = evaluated(folder / "moe");
  CHECK(moe.at("step") == 0);
  CHECK(moe.at("loss").get<double>() ==
        doctest::Approx(dense.at("loss").get<double>()).epsilon(1e-5));
  CHECK(moe.at("accuracy") == dense.at("accuracy"));
  CHECK(moe.at("layers").size() == 1);
  CHECK(moe.at("dropped") == 0.0);

  const Ending trained = run({"train", "--resume", folder / "moe"});
  REQUIRE_MESSAGE(trained.code == 0, trained.err);
  CHECK(evaluated(folder / "moe").at("step") == 12);  // 48 images in batches of 8, twice
}

TEST_CASE("routers with fixed weights are upcycled too, and a capacity that was asked for stays") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "dense") + Arguments{"--dense", "--k", "1"}).code == 0);
  for (const char* router : {"hash", "uniform"}) {
    const Ending made = run(
        {"upcycle", folder / "dense", "--out", folder / router, "--router", router, "--k", "2"});
    REQUIRE_MESSAGE(made.code == 0, made.err);
    CHECK(evaluated(folder / router).at("loss").get<double>() ==
          doctest::Approx(evaluated(folder / "dense").at("loss").get<double>()).epsilon(1e-5));
  }
  const Ending tight = run({"upcycle", folder / "dense", "--out", folder / "tight",
                            "--capacity-factor", "0.5", "--eval-capacity-factor", "0.5"});
  REQUIRE_MESSAGE(tight.code == 0, tight.err);
  CHECK(evaluated(folder / "tight").at("dropped").get<double>() > 0.2);
  const Ending idle = run({"upcycle", folder / "dense", "--out", folder / "idle", "--capacity",
                           "dropless", "--capacity-factor", "2"});
  CHECK(idle.code == 2);
  CHECK(idle.err == Containing("--capacity dropless has no factor"));
}

TEST_CASE("what no finite score comes of has no accuracy") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "dense") + Arguments{"--dense", "--k", "1"}).code == 0);
  REQUIRE(
      run({"upcycle", folder / "dense", "--out", folder / "wild", "--expert-noise", "1e30"}).code ==
      0);
  const Ending ending = run({"eval", folder / "wild"});
  CHECK(ending.code == 1);
  CHECK(ending.err == Containing("loss of the test images is nan: the model's scores are NaN"));
}

TEST_CASE("noise makes the experts of an upcycled model differ from the start") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "dense") + Arguments{"--dense", "--k", "1"}).code == 0);
  const auto made = [&](const char* name, const Arguments& more) {
    const Ending ending =
        run(Arguments{"upcycle", folder / "dense", "--out", folder / name} + more);
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    return tensors(newest_checkpoint(folder / name));
  };
  const auto alike = made("alike", {});
  std::string kernel;
  for (const auto& [name, bytes] : alike)
    if (name.ends_with("Moe/Mlp/Dense_0/kernel") && !name.starts_with("@")) kernel = name;
  REQUIRE_FALSE(kernel.empty());
  const std::string& values = alike.at(kernel);
  const std::size_t expert = values.size() / 4;
  CHECK(values.substr(0, expert) == values.substr(expert, expert));
  const auto apart = made("apart", {"--expert-noise", "0.1"});
  CHECK(apart.at(kernel).substr(0, expert) != apart.at(kernel).substr(expert, expert));
  CHECK(apart == made("again", {"--expert-noise", "0.1"}));
}

TEST_CASE("what cannot be upcycled is refused, and no run is made") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "sparse")).code == 0);
  REQUIRE(run(train(data, folder / "twin") + Arguments{"--dense"}).code == 0);
  const auto refused = [&](const char* from, const Arguments& more) {
    const Ending ending = run(Arguments{"upcycle", folder / from, "--out", folder / "out"} + more);
    CHECK(ending.code != 0);
    CHECK_FALSE(std::filesystem::exists(folder / "out"));
    return ending.err;
  };
  CHECK(refused("sparse", {}) == Containing("is not of a dense vision transformer"));
  // the twin of two experts a token is twice as wide as an expert
  CHECK(refused("twin", {}) == Containing("expected [16 x 16]"));
  CHECK(refused("twin", {"--dense"}) == Containing("dense is true, expected a model with experts"));
  CHECK(refused("twin", {"--expert-noise", "much"}) ==
        Containing("--expert-noise is 'much', expected a number"));
  CHECK(run({"upcycle", folder / "twin"}).err == Containing("no --out came"));
  CHECK(run({"upcycle"}).err == Containing("no path came"));
}
