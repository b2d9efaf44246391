// vmoe certify: radii within which no attack can succeed, where the theorems apply.
#include <doctest/doctest.h>

#include <cstdio>

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

  for (const Arguments& idle : {Arguments{"--n", "3"}, {"--seed", "7"}, {"--data", "nowhere"}})
    CHECK(run(Arguments{"certify", folder / "run"} + idle).err ==
          Containing("vmoe certify: " + idle[0] + " has no effect with a vision transformer"));

  REQUIRE(run(train(data, folder / "dense") + Arguments{"--epochs", "1", "--dense"}).code == 0);
  REQUIRE(run({"certify", folder / "dense", "--json", file}).code == 0);
  const json dense = json::parse(read_file(file));
  CHECK(dense.at("certificate") == "not_applicable");
  CHECK(dense.at("reasons").size() == 2);
  CHECK(dense.at("layers").empty());
  CHECK(dense.at("radii").size() == 5);

  REQUIRE(
      run(train(data, folder / "gated") + Arguments{"--epochs", "1", "--expert", "swiglu"}).code ==
      0);
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
  for (const std::string nothing : {"", ","})
    CHECK(refused({"run", "--radii", nothing}) ==
          Containing("--radii is '" + nothing + "', expected numbers separated by commas"));
  CHECK(refused({"run", "--radii", "1/x"}) == Containing("--radii is '1/x', expected a number"));
  CHECK(refused({"run", "--radii", "1/255,8"}) ==
        Containing("--radii is '8', expected at most 1, for pixels are from 0 to 1"));
  CHECK(refused({"run", "--radius", "1"}) ==
        Containing("unknown argument '--radius' (did you mean '--radii'?)"));
}

TEST_CASE("a mixture of networks without norms has sound radii, one with norms none") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto certified = [&](const char* norm) {
    const auto out = folder / norm;
    const Ending trained = run(train_mixture(data, out, "supervised") +
                               Arguments{"--resnet-norm", norm, "--epochs", "4"});
    REQUIRE_MESSAGE(trained.code == 0, trained.err);
    const Ending ending =
        run({"certify", out, "--radii", "1e-9,8/255", "--json", folder / "c.json"});
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    json figures = json::parse(read_file(folder / "c.json"));
    CHECK((ending.out == Containing("limited by route %")) ==
          (figures.at("certificate") == "sound"));
    for (const json& radius : figures.at("radii")) {
      if (radius.at("certified").is_null()) continue;
      CHECK(radius.at("label") == "formal");
      // Half the denominator of the sound formula, and of no worth
      CHECK(radius.at("published").at("certified") >= radius.at("certified"));
      CHECK(radius.at("published").at("label") == "diagnostic");
      char shares[64];
      std::snprintf(shares, sizeof shares, " %.2f %19.2f %13.2f\n",
                    100 * radius.at("certified").get<double>(),
                    100 * radius.at("limited_by_route").get<double>(),
                    100 * radius.at("published").at("certified").get<double>());
      CHECK(ending.out == Containing(shares));
    }
    return figures;
  };
  const json sound = certified("none");
  CHECK(sound.at("certificate") == "sound");
  CHECK(sound.at("reasons").empty());
  const double accuracy = metrics(folder / "none", "final").at(0).at("accuracy").get<double>();
  // Next to nothing may be done to an image: all that are right are certified
  CHECK(sound.at("radii").at(0).at("certified").get<double>() == doctest::Approx(accuracy));
  CHECK(sound.at("radii").at(1).at("certified") <= sound.at("radii").at(0).at("certified"));
  CHECK(sound.at("layers").at(0).at("experts_linf").at("experts").size() == 2);

  const json none = certified("layer");
  CHECK(none.at("certificate") == "not_applicable");
  CHECK(none.at("reasons").size() == 1);
  CHECK(none.at("radii").at(0).at("certified").is_null());
}

TEST_CASE("a dual model of two checkpoints has sound radii, alone and at each alpha of a sweep") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto standard = folder / "standard", hard = folder / "robust";
  const auto mixed = folder / "mixed.safetensors";
  const Arguments bounded{"--resnet-norm", "none", "--epochs", "4"};
  REQUIRE(run(train_mixture(data, standard, "supervised") + bounded).code == 0);
  REQUIRE(run(train_mixture(data, hard, "adversarial") + bounded).code == 0);
  const std::string radii = "1e-9,1e-4,1/255";
  const Ending swept = run({"dual", standard, hard, "--space", "probability", "--alphas",
                            "0.4,0.8,1", "--steps", "1", "--radii", radii, "--json",
                            folder / "sweep.json", "--out", mixed, "--alpha", "0.8"});
  REQUIRE_MESSAGE(swept.code == 0, swept.err);
  CHECK(swept.out == Containing("certificate: sound"));
  CHECK(swept.out == Containing("alpha 0.4\nL-inf radius  certified %  limited by route %  robust "
                                "part alone %  both parts %  published *%\n"));
  CHECK(swept.out ==
        Containing("* by the published formula: a diagnostic, which promises nothing"));
  const json sweep = json::parse(read_file(folder / "sweep.json"));
  CHECK(sweep.at("certificate") == "sound");
  CHECK(sweep.at("images") == 15);
  CHECK(sweep.at("layers").size() == 2);
  for (const json& point : sweep.at("points")) {
    CAPTURE(point.dump());
    REQUIRE(point.at("radii").size() == 3);
    // Next to nothing may be done to an image: all that are right are certified
    CHECK(100 * point.at("radii")[0].at("certified").get<double>() ==
          doctest::Approx(point.at("sa").get<double>()));
    double larger = 1;
    for (const json& at : point.at("radii")) {
      const double share = at.at("certified").get<double>();
      CHECK(share <= larger);
      larger = share;
      CHECK(at.at("label") == "formal");
      CHECK(at.at("pair").at("label") == "formal");
      CHECK(share >= at.at("pair").at("certified").get<double>());
      const json& alone = at.at("robust_alone");
      if (point.at("alpha") == 0.4) {  // the standard part can outvote the robust one
        CHECK(alone.at("certified").is_null());
        CHECK(!alone.contains("label"));
        CHECK(at.at("published").at("certified").is_null());
        continue;
      }
      CHECK(alone.at("label") == "formal");
      CHECK(share >= alone.at("certified").get<double>());
      CHECK(at.at("published").at("certified") >= alone.at("certified"));
      CHECK(at.at("published").at("label") == "diagnostic");
      if (point.at("alpha") == 1) CHECK(alone.at("certified") == at.at("pair").at("certified"));
    }
  }

  const Ending one = run({"certify", mixed, "--radii", radii, "--json", folder / "one.json"});
  REQUIRE_MESSAGE(one.code == 0, one.err);
  CHECK(one.out ==
        Containing("dual model in the space log_probability, alpha 0.8\n15 test images"));
  const json figures = json::parse(read_file(folder / "one.json"));
  CHECK(figures.at("radii") == sweep.at("points")[1].at("radii"));
  CHECK(figures.at("model") == "dual model of mixtures of whole networks");
  CHECK(figures.at("alpha") == 0.8);
  for (const json& at : figures.at("radii")) {  // attacks find nothing inside
    const json eps = at.at("linf");
    REQUIRE(run({"attack", mixed, "--attack", "pgd", "--steps", "10", "--n", "0", "--eps",
                 eps.dump(), "--json", folder / "attack.json"})
                .code == 0);
    CHECK(json::parse(read_file(folder / "attack.json")).at("ra").get<double>() + 1e-9 >=
          100 * at.at("certified").get<double>());
  }

  // Scores have no bound that the standard part could not break: both parts are needed
  const Ending scores = run({"dual", standard, hard, "--alphas", "0.8", "--steps", "1", "--radii",
                             "1e-9", "--json", folder / "scores.json"});
  REQUIRE_MESSAGE(scores.code == 0, scores.err);
  const json point = json::parse(read_file(folder / "scores.json")).at("points")[0];
  const json& at = point.at("radii")[0];
  CHECK(at.at("robust_alone").at("certified").is_null());
  CHECK(at.at("published").at("certified").is_null());
  CHECK(at.at("certified") == at.at("pair").at("certified"));
  CHECK(100 * at.at("certified").get<double>() == doctest::Approx(point.at("sa").get<double>()));
}

TEST_CASE("a dual model of experts with norms has no radii") {
  const TemporaryFolder folder;
  const auto joint = folder / "joint";
  REQUIRE(run(train_mixture(write_images(folder / "data"), joint, "jtdmoe")).code == 0);
  const Ending ending = run({"certify", joint, "--json", folder / "c.json"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(ending.out == Containing("certificate: not_applicable\n  experts with attention or norms"));
  const json figures = json::parse(read_file(folder / "c.json"));
  CHECK(figures.at("reasons").size() == 1);
  CHECK(figures.at("layers").size() == 2);
  for (const json& at : figures.at("radii")) CHECK(at.at("certified").is_null());
  const Ending swept = run({"dual", joint, "--alphas", "0.8", "--steps", "1", "--radii", "1/255"});
  REQUIRE_MESSAGE(swept.code == 0, swept.err);
  CHECK(swept.out == Containing("certificate: not_applicable"));
  CHECK(run({"dual", joint, "--radii", "0"}).err ==
        Containing("vmoe dual: a radius is 0, expected finite numbers above 0"));
}
