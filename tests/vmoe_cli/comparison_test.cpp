// vmoe report of several models: the figures on the page, and what is refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

namespace {

/// The figures in a page.
json figures_in(const std::filesystem::path& page) {
  const std::string html = read_file(page), opening = "id=\"data\">";
  const std::size_t begin = html.find(opening) + opening.size();
  return json::parse(html.substr(begin, html.find("</script>", begin) - begin));
}

json compare(const TemporaryFolder& folder, const Arguments& arguments) {
  const auto page = folder / "page.html";
  const Ending ending = run(Arguments{"report", "--out", page} + arguments);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(ending.err.empty());
  CHECK(ending.out == Containing("comparison: " + page.string() + " (0."));
  return figures_in(page);
}

/// Mean over images of figures at a level.
double mean_at(const json& images, std::size_t level) {
  double sum = 0;
  for (const json& along : images) sum += along.at(level).get<double>();
  return sum / static_cast<double>(images.size());
}

}  // namespace

TEST_CASE("report of two models has the figures that stability measures") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data", 16, 7);
  const Arguments few{"--epochs", "1"};
  REQUIRE(run(train(data, folder / "plain") + few + Arguments{"--moe", "every-1"}).code == 0);
  const Arguments chosen{"--router", "softmax_expert_choice", "--eval-capacity-factor", "1"};
  REQUIRE(run(train(data, folder / "chosen") + few + chosen).code == 0);
  const Arguments asked{folder / "plain", newest_checkpoint(folder / "chosen"),
                        "--images",       "5",
                        "--levels",       "4",
                        "--noise",        "0.8",
                        "--seed",         "5"};
  const json page = compare(folder, asked + Arguments{"--threads", "2"});
  const auto file = folder / "figures.json";
  REQUIRE(run(Arguments{"stability", "--json", file} + asked).code == 0);
  const json stability = json::parse(read_file(file));

  CHECK(page.at("data") == "data");
  CHECK(page.at("classes") == json({"cat", "dog", "emu"}));
  CHECK(page.at("levels") == 4);
  CHECK(page.at("noise") == 0.8);
  REQUIRE(page.at("images").size() == 5);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(page.at("images")[i].at("number") == stability.at("images")[i]);
    CHECK(page.at("images")[i].at("pixels").get<std::string>().size() == 256);  // 192 bytes
    CHECK(page.at("images")[i].at("direction").get<std::string>().size() == 256);
  }
  REQUIRE(page.at("models").size() == 2);
  CHECK(page.at("models")[0].at("name") == "plain");
  CHECK(page.at("models")[1].at("name") == "chosen");
  CHECK(page.at("models")[1].at("router") == "softmax_expert_choice");
  for (std::size_t m = 0; m < 2; ++m) {
    const json& own = page.at("models")[m];
    const json& measured = stability.at("models")[m];
    CHECK(own.at("grid") == json({2, 2}));
    REQUIRE(own.at("layers").size() == measured.at("moe_blocks").size());
    for (std::size_t level = 0; level <= 4; ++level) {
      const json& noise = measured.at("noise").at("levels")[level];
      // Figures on the page have four digits.
      CHECK(std::abs(mean_at(own.at("probability"), level) -
                     noise.at("true_class_probability").get<double>()) < 6e-5);
      for (std::size_t l = 0; l < own.at("layers").size(); ++l)
        for (const char* kind : {"top1", "set", "iou"})
          CHECK(std::abs(mean_at(own.at("layers")[l].at("change").at(kind), level) -
                         noise.at("layers")[l].at(kind).get<double>()) < 6e-5);
    }
  }
  // Two experts for each of 4 patches, 5 images and 5 levels, in base64.
  const json& layer = page.at("models")[0].at("layers")[1];
  CHECK(layer.at("block") == 1);
  CHECK(layer.at("count") == 2);
  CHECK(layer.at("experts").get<std::string>().size() == 268);
  CHECK(compare(folder, asked + Arguments{"--threads", "1"}) == page);
}

TEST_CASE("report compares models without experts, with class tokens and with soft experts") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data", 16, 7);
  const Arguments few{"--epochs", "1"};
  REQUIRE(run(train(data, folder / "dense") + few + Arguments{"--dense"}).code == 0);
  const Arguments token{"--pooling", "token", "--loss",         "sigmoid",
                        "--router",  "soft",  "--group-images", "1"};
  REQUIRE(run(train(data, folder / "soft") + few + token).code == 0);
  const json page = compare(folder, {folder / "dense", folder / "soft", "--levels", "2"});
  CHECK(page.at("images").size() == 12);
  CHECK(page.at("models")[0].at("layers").empty());
  CHECK_FALSE(page.at("models")[0].contains("router"));
  // Two of the experts for each of 4 patches, without the class token.
  const json& layer = page.at("models")[1].at("layers")[0];
  CHECK(layer.at("count") == 2);
  CHECK(layer.at("experts").get<std::string>().size() == 4 * 12 * 3 * 4 * 2 / 3);
}

TEST_CASE("report of one run writes its report again, whatever else there is") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "run") + Arguments{"--epochs", "1"}).code == 0);
  const auto report = folder / "run" / "report.html";
  const std::string first = read_file(report);
  std::filesystem::remove(report);
  const Ending again = run({"report", folder / "run"});
  CHECK(again.code == 0);
  CHECK(again.out == "report: " + report.string() + "\n");
  CHECK(read_file(report) == first);
  const Ending idle = run({"report", folder / "run", "--levels", "3"});
  CHECK(idle.code == 2);
  CHECK(idle.err == Containing("--levels is for comparing models, expected two or more paths"));
}

TEST_CASE("report refuses what cannot be compared, in one line") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments few{"--epochs", "1"};
  REQUIRE(run(train(data, folder / "colour") + few).code == 0);
  REQUIRE(run(train(write_images(folder / "grey", 16, 5, 1), folder / "grey-run") + few).code == 0);
  const auto other = write_images(folder / "other");
  for (const char* split : {"train", "test"})
    std::filesystem::rename(other / split / "dog", other / split / "doe");
  REQUIRE(run(train(other, folder / "other-run") + few).code == 0);
  const Arguments shared{"--router", "soft", "--group-images", "4"};
  REQUIRE(run(train(data, folder / "shared") + few + shared).code == 0);
  const auto page = folder / "page.html";
  const auto refused = [&](int code, const Arguments& arguments) {
    const Ending ending = run(Arguments{"report"} + arguments);
    CHECK(ending.code == code);
    CHECK(ending.out.empty());
    CHECK_FALSE(std::filesystem::exists(page));
    // Mistakes of usage have a second line, which names the help.
    CHECK(std::count(ending.err.begin(), ending.err.end(), '\n') == code);
    return ending.err;
  };
  const Arguments two{folder / "colour", folder / "colour", "--out", page};
  CHECK(refused(2, {}) == Containing("no path came, expected the folder of a run for its report"));
  CHECK(refused(2, {folder / "colour", folder / "grey-run", "--out", page}) ==
        Containing("is for images of 8x8x1 in 3 classes, expected 8x8x3 in 3"));
  CHECK(refused(2, {folder / "colour", folder / "other-run", "--out", page}) ==
        Containing("' is 'doe', expected 'dog', as of '"));
  CHECK(refused(2, {folder / "colour", folder / "shared", "--out", page}) ==
        Containing("has soft experts with slots for 4 images together, expected 1"));
  CHECK(refused(1, {folder / "colour", folder / "nothing.safetensors", "--out", page}) ==
        Containing("nothing.safetensors"));
  CHECK(refused(2, two + Arguments{"--levels", "0"}) == Containing("levels is 0"));
  CHECK(refused(2, two + Arguments{"--images", "-1"}) == Containing("images is -1"));
  CHECK(refused(2, two + Arguments{"--noise", "loud"}) ==
        Containing("--noise is 'loud', expected a number"));
  CHECK(refused(2, two + Arguments(7, folder / "colour")) ==
        Containing("9 models came, expected 2 to 8"));
  CHECK(refused(1, {folder / "colour", folder / "colour", "--out", folder / "no" / "page.html"}) ==
        Containing("page.html"));
  CHECK(refused(1, {folder / "colour", folder / "colour", "--out", folder / "data"}) ==
        Containing("is not a regular file"));
}
