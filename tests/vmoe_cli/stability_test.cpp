// vmoe stability: how routes and predictions of checkpoints change with noise, a crop and a flip.
#include <doctest/doctest.h>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

namespace {

json stability(const TemporaryFolder& folder, const Arguments& arguments) {
  const auto file = folder / "figures.json";
  const Ending ending = run(Arguments{"stability", "--json", file} + arguments);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(ending.err.empty());
  CHECK(ending.out == Containing("discontinuities of an image: "));
  return json::parse(read_file(file));
}

void check_share(const json& value) {
  CHECK(value.get<double>() >= 0);
  CHECK(value.get<double>() <= 1);
}
/// Figures of a model that looks at other images: shares, one entry a MoE layer.
void check_figures(const json& figures, const json& blocks) {
  for (const char* key : {"accuracy", "true_class_probability", "prediction_change"})
    check_share(figures.at(key));
  REQUIRE(figures.at("layers").size() == blocks.size());
  for (std::size_t l = 0; l < blocks.size(); ++l) {
    const json& layer = figures.at("layers")[l];
    CHECK(layer.at("block") == blocks[l]);
    for (const char* key : {"top1", "set", "iou"}) check_share(layer.at(key));
  }
}

}  // namespace

TEST_CASE("stability measures every checkpoint along the sweep, under a crop and a flip") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data", 16, 7);
  const Arguments one{"--k", "1", "--moe", "every-1"};
  REQUIRE(run(train(data, folder / "plain") + one).code == 0);
  REQUIRE(run(train(data, folder / "prc") + one + Arguments{"--prc", "1", "--seed", "3"}).code ==
          0);
  const json all =
      stability(folder, {folder / "plain", newest_checkpoint(folder / "prc"), "--images", "9",
                         "--levels", "4", "--noise", "2", "--seed", "5", "--threads", "2"});
  CHECK(all.at("images").size() == 9);
  CHECK(all.at("seed") == 5);
  REQUIRE(all.at("models").size() == 2);
  CHECK(all.at("models")[0].at("prc") == 0);
  CHECK(all.at("models")[1].at("prc") == 1);
  for (const json& model : all.at("models")) {
    const json& blocks = model.at("moe_blocks");
    CHECK(blocks == json({0, 1}));
    const json& levels = model.at("noise").at("levels");
    REQUIRE(levels.size() == 5);
    double changed = 0;
    for (std::size_t j = 0; j < levels.size(); ++j) {
      CHECK(levels[j].at("sigma").get<double>() == doctest::Approx(0.5 * static_cast<double>(j)));
      check_figures(levels[j], blocks);
      for (const json& layer : levels[j].at("layers")) changed += layer.at("top1").get<double>();
      // One expert a token and nothing dropped: all three are the same share.
      for (const json& layer : levels[j].at("layers")) {
        CHECK(layer.at("top1").get<double>() == doctest::Approx(layer.at("set").get<double>()));
        CHECK(layer.at("top1").get<double>() == doctest::Approx(layer.at("iou").get<double>()));
      }
    }
    CHECK(changed > 0);
    CHECK(levels[0].at("prediction_change") == 0);
    CHECK(levels[0].at("from_previous").at("prediction_change") == 0);
    for (const json& layer : levels[0].at("layers")) CHECK(layer.at("iou") == 0);
    CHECK(levels[1].at("from_previous").at("layers") == levels[1].at("layers"));
    double sum = 0;
    for (const json& n : model.at("noise").at("discontinuities_of_images")) {
      CHECK(n.get<int>() <= 4);
      sum += n.get<double>();
    }
    CHECK(model.at("noise").at("discontinuities").get<double>() == doctest::Approx(sum / 9));
    for (const char* view : {"crop", "flip"}) check_figures(model.at(view), blocks);
    CHECK(model.at("flip").at("matched") == 1);  // patches of a mirrored image are all there
  }
  // Alone and by other threads it has the same figures.
  const json again = stability(folder, {folder / "prc", "--images", "9", "--levels", "4", "--noise",
                                        "2", "--seed", "5", "--threads", "1"});
  CHECK(again.at("models")[0] == all.at("models")[1]);
  CHECK(stability(folder, {folder / "prc", "--images", "9", "--seed", "6"}).at("images") !=
        all.at("images"));
}

TEST_CASE("stability of all images without noise is what eval says") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data", 16, 7);
  for (const Arguments& more :
       {Arguments{"--router", "soft"}, Arguments{"--router", "softmax_expert_choice"},
        Arguments{"--pooling", "token", "--loss", "sigmoid"}, Arguments{"--dense"}}) {
    const auto out = folder / ("run" + more.back());
    REQUIRE(run(train(data, out) + Arguments{"--epochs", "1", "--group-images", "1"} + more).code ==
            0);
    const json figures = stability(folder, {out, "--images", "0", "--levels", "1"});
    CHECK(figures.at("images").size() == 21);
    const json& model = figures.at("models")[0];
    const json eval = json::parse(run({"eval", out}).out);
    CHECK(model.at("noise").at("levels")[0].at("accuracy").get<double>() ==
          doctest::Approx(eval.at("accuracy").get<double>()));
    check_share(model.at("crop").at("matched"));
  }
}

TEST_CASE("under PGD routes change, and no more images are right than were") {
  const TemporaryFolder folder;
  const auto grey = write_images(folder / "data", 16, 7, 1);
  for (const Arguments& more : {Arguments{"--channels", "3"}, Arguments{"--moe", "none"}}) {
    const auto out = folder / ("run" + more.back());
    REQUIRE(run(train(grey, out) + Arguments{"--k", "1"} + more).code == 0);
    const Arguments looks{out, "--images", "9", "--levels", "1"};
    CHECK_FALSE(stability(folder, looks).at("models")[0].contains("pgd"));
    const json model =
        stability(folder, looks + Arguments{"--pgd", "64/255", "--pgd-steps", "3"}).at("models")[0];
    const json& pgd = model.at("pgd");
    check_figures(pgd, model.at("moe_blocks"));
    CHECK(pgd.at("eps").get<double>() == doctest::Approx(64.0 / 255));
    CHECK(pgd.at("steps") == 3);
    const json& clean = model.at("noise").at("levels")[0];
    CHECK(pgd.at("accuracy").get<double>() <= clean.at("accuracy").get<double>());
    CHECK(pgd.at("true_class_probability").get<double>() <
          clean.at("true_class_probability").get<double>());
    // Other threads, the same figures.
    const Arguments alone{"--pgd", "64/255", "--pgd-steps", "3", "--threads", "1"};
    CHECK(stability(folder, looks + alone).at("models")[0] == model);
  }
  const auto refused = [&](const Arguments& more) {
    const Ending ending = run(Arguments{"stability", folder / "runnone"} + more);
    CHECK(ending.code == 2);
    return ending.err;
  };
  CHECK(refused({"--pgd", "2"}) ==
        Containing("--pgd is '2', expected at most 1, for pixels are from 0 to 1"));
  CHECK(refused({"--pgd", "0.1", "--pgd-steps", "0"}) == Containing("pgd-steps is 0"));
  CHECK(refused({"--pgd-steps", "4"}) == Containing("has no effect without --pgd EPS"));
}

TEST_CASE("stability refuses what cannot be compared") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto grey = write_images(folder / "grey", 16, 5, 1);
  REQUIRE(run(train(data, folder / "colour") + Arguments{"--epochs", "1"}).code == 0);
  REQUIRE(run(train(grey, folder / "grey-run") + Arguments{"--epochs", "1"}).code == 0);
  const auto refused = [&](const Arguments& arguments) {
    const Ending ending = run(Arguments{"stability"} + arguments);
    CHECK(ending.code == 2);
    CHECK(ending.out.empty());
    return ending.err;
  };
  CHECK(refused({}) == Containing("no path came, expected checkpoints or folders of runs"));
  CHECK(refused({folder / "colour", folder / "grey-run"}) ==
        Containing("is for images of 8x8x1 in 3 classes, expected 8x8x3 in 3"));
  CHECK(refused({folder / "colour", "--levels", "0"}) == Containing("levels is 0"));
  CHECK(refused({folder / "colour", "--noise", "much"}) ==
        Containing("--noise is 'much', expected a number"));
  CHECK(refused({folder / "colour", "--images", "1.5"}) ==
        Containing("--images is '1.5', expected a whole number"));
  CHECK(refused({folder / "colour", "--level", "3"}) ==
        Containing("unknown argument '--level' (did you mean '--levels'?)"));
  // Other images than it was trained beside may be those that another learned from.
  fixtures::write_directory(folder / "data",
                            {{"test/cat/more.png", fixtures::png(fixtures::flat(8, 8, 3, 9))}});
  CHECK(refused({folder / "colour"}) == Containing("expected --data PATH"));
  const Ending named = run({"stability", folder / "colour", "--data", data, "--levels", "1"});
  CHECK(named.code == 0);
  CHECK(named.out == Containing("16 test images of"));
}
