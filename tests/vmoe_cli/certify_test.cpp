// vmoe certify: radii within which no attack can succeed, where the theorems apply.
#include <doctest/doctest.h>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

TEST_CASE("certify says why a vision transformer has no certificate, and bounds its MoE layers") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "run") + Arguments{"--epochs", "1"}).code == 0);
  const auto file = folder / "figures.json";
  const Ending ending = run({"certify", folder / "run", "--json", file, "--radii", "1/255,0.02"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(ending.out == Containing("certificate: not_applicable"));
  CHECK(ending.out == Containing("attention: products of its inputs have no finite Lipschitz"));
  const json figures = json::parse(read_file(file));
  CHECK(figures.at("certificate") == "not_applicable");
  CHECK(figures.at("reasons").size() == 4);  // attention, norms, routers, groups of images
  REQUIRE(figures.at("radii").size() == 2);
  CHECK(figures.at("radii")[0].at("linf").get<double>() == doctest::Approx(1.0 / 255));
  CHECK(figures.at("radii")[1].at("linf") == 0.02);
  for (const json& radius : figures.at("radii")) CHECK(radius.at("certified").is_null());
  REQUIRE(figures.at("layers").size() == 1);
  const json& layer = figures.at("layers")[0];
  CHECK(layer.at("block") == 1);
  for (const char* key : {"experts_linf", "experts_l2"}) {
    const json& bounds = layer.at(key);
    CHECK(bounds.at("label") == "formal");
    REQUIRE(bounds.at("experts").size() == 4);
    for (const json& b : bounds.at("experts")) {
      CHECK(b.get<double>() > 0);
      CHECK(b <= bounds.at("largest"));
    }
  }
  CHECK(layer.at("gate").at("l2").get<double>() > 0);
  CHECK(layer.at("gate").at("label") == "formal");

  REQUIRE(run(train(data, folder / "dense") + Arguments{"--epochs", "1", "--dense"}).code == 0);
  REQUIRE(run({"certify", folder / "dense", "--json", file}).code == 0);
  const json dense = json::parse(read_file(file));
  CHECK(dense.at("certificate") == "not_applicable");
  CHECK(dense.at("reasons").size() == 2);
  CHECK(dense.at("layers").empty());
  CHECK(dense.at("radii").size() == 5);

  REQUIRE(run(train(data, folder / "gated") + Arguments{"--epochs", "1", "--expert", "swiglu"})
              .code == 0);
  REQUIRE(run({"certify", folder / "gated", "--json", file}).code == 0);
  const json gated = json::parse(read_file(file)).at("layers")[0];
  CHECK(gated.at("experts_l2").is_null());
  CHECK(gated.at("reason") == "experts of kind 'swiglu': no bound of theirs is known");
}

TEST_CASE("certify refuses what makes no sense") {
  const auto refused = [](const Arguments& arguments) {
    const Ending ending = run(Arguments{"certify"} + arguments);
    CHECK(ending.code == 2);
    CHECK(ending.out.empty());
    return ending.err;
  };
  CHECK(refused({}) == Containing("vmoe certify: no path came, expected a checkpoint or a run's"));
  CHECK(refused({"run", "--radii", "0"}) ==
        Containing("a radius is 0, expected finite numbers above 0"));
  CHECK(refused({"run", "--radii", "1/255,,2/255"}) ==
        Containing("--radii is '1/255,,2/255', expected numbers separated by commas"));
  CHECK(refused({"run", "--radii", "1/x"}) == Containing("--radii is '1/x', expected a number"));
  CHECK(refused({"run", "--radius", "1"}) ==
        Containing("unknown argument '--radius' (did you mean '--radii'?)"));
}
