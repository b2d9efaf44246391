// vmoe eval --routes: what the model decided for each token of the test images.
#include <doctest/doctest.h>

#include <filesystem>

#include "moxie/io/routes.hpp"
#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

TEST_CASE("eval writes the routes of all test images, from which its figures follow") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  const auto data = write_images(folder / "data", 16, 7);  // 21 test images: the last group is cut
  const Arguments drops{"--moe", "every-1", "--eval-capacity-factor", "0.8"};
  REQUIRE(run(train(data, out) + drops).code == 0);
  const auto file = folder / "routes.safetensors";
  const Ending ending = run({"eval", out, "--routes", file});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  const json layers = json::parse(ending.out).at("layers");
  const auto tokens = json::parse(read_file(out / "config.json")).at("model").at("tokens");
  const auto routes = moxie::load_routes<float>(file);
  REQUIRE(routes.size() == 2);
  REQUIRE(layers.size() == 2);
  for (std::size_t i = 0; i < routes.size(); ++i) {
    CHECK(routes[i].tokens == 21 * tokens.get<moxie::Index>());
    CHECK(routes[i].choices == 2);
    std::vector<double> count(4, 0);
    double none = 0;
    for (std::size_t a = 0; a < routes[i].choice.size(); ++a) {
      const std::int32_t e = routes[i].choice[a];
      REQUIRE(moxie::routed_expert(e) >= 0);  // a drop is recorded with its expert and weight
      REQUIRE(moxie::routed_expert(e) < 4);
      CHECK(routes[i].weight[a] > 0);
      if (e < 0) {
        ++none;
        continue;
      }
      ++count[static_cast<std::size_t>(e)];
    }
    const auto all = static_cast<double>(routes[i].choice.size());
    CHECK(none > 0);
    CHECK(layers[i].at("dropped").get<double>() == doctest::Approx(none / all));
    for (std::size_t e = 0; e < 4; ++e)
      CHECK(layers[i].at("load")[e].get<double>() == doctest::Approx(count[e] / (all - none)));
  }
}

TEST_CASE("routes of a router without a list of choices are refused, and nothing is written") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto refused = [&](const char* name, const Arguments& more, const char* why) {
    REQUIRE(run(train(data, folder / name) + more).code == 0);
    const Ending ending = run({"eval", folder / name, "--routes", folder / "routes"});
    CHECK(ending.code == 2);
    CHECK(ending.err == Containing(why));
    CHECK_FALSE(std::filesystem::exists(folder / "routes"));
  };
  refused("choice", {"--router", "softmax_expert_choice"}, "in MoE layer 0 experts choose");
  refused("soft", {"--router", "soft"}, "MoE layer 0 is soft");
  refused("dense", {"--dense"}, "but the model has no experts");
  const Ending nowhere = run({"eval", folder / "choice", "--routes", folder / "no" / "routes"});
  CHECK(nowhere.code == 1);
  CHECK(nowhere.err == Containing("routes': cannot create a file beside it: No such file"));
}
