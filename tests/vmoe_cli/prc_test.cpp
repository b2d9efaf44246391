// vmoe train --prc: two views of each image, and a loss where their routes differ.
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* prc_loss = "pairwise_consistency";

/// Whole lines of a file, which may not be there yet.
auto lines_in(const fs::path& file) {
  const std::string text = read_file(file);
  return std::count(text.begin(), text.end(), '\n');
}

}  // namespace

TEST_CASE("a run with --prc that is killed goes on bit for bit, and its loss falls") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments options{"--epochs", "20", "--prc",           "20",
                          "--noise",  "0",  "--learning-rate", "0.005"};
  const auto whole = folder / "whole", killed = folder / "killed";
  const Ending ending = run(train(data, whole) + options);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(ending.err.empty());
  {
    Process process(train(data, killed) + options +
                    Arguments{"--checkpoint-every", "7", "--threads", "3"});
    for (int i = 0; i < 6000 && lines_in(killed / "metrics.jsonl") < 6; ++i) {
      REQUIRE(process.running());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    process.signal(SIGKILL);
    process.end();
  }
  const Ending resumed = run({"train", "--resume", killed, "--threads", "2"});
  REQUIRE_MESSAGE(resumed.code == 0, resumed.err);
  CHECK(resumed.out == Containing("resuming at step"));
  CHECK(tensors(newest_checkpoint(killed)) == tensors(newest_checkpoint(whole)));
  CHECK(timeless(killed) == timeless(whole));

  const std::vector<json> lines = metrics(whole, "train");
  REQUIRE(lines.size() >= 10);
  const double first = lines.front().at("aux_losses").at(prc_loss);
  const double last = lines.back().at("aux_losses").at(prc_loss);
  CHECK(first > 0);
  CHECK(last < 0.7 * first);
  for (const json& line : lines) {
    double sum = 0;
    for (const auto& loss : line.at("aux_losses").items()) sum += loss.value().get<double>();
    CHECK(line.at("aux_loss").get<double>() == doctest::Approx(sum));
    CHECK(line.at("aux_losses").size() == 1);  // importance and load are 0 beside it
  }
}

TEST_CASE("without --prc there is no such loss, and --prc changes what is trained") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments one{"--epochs", "1"};
  REQUIRE(run(train(data, folder / "plain") + one).code == 0);
  REQUIRE(run(train(data, folder / "zero") + one + Arguments{"--prc", "0"}).code == 0);
  REQUIRE(run(train(data, folder / "prc") + one + Arguments{"--prc", "1"}).code == 0);
  CHECK(timeless(folder / "plain") == timeless(folder / "zero"));
  CHECK(tensors(newest_checkpoint(folder / "plain")) ==
        tensors(newest_checkpoint(folder / "zero")));
  CHECK(tensors(newest_checkpoint(folder / "plain")) != tensors(newest_checkpoint(folder / "prc")));
  const json losses = metrics(folder / "plain", "train").front().at("aux_losses");
  CHECK(losses.size() == 2);
  CHECK(losses.at("importance") > 0);
  CHECK(losses.at("load") > 0);
  CHECK(config_of(folder / "plain").at("options").at("importance") > 0);
  CHECK(config_of(folder / "prc").at("options").at("importance") == 0);
  CHECK(config_of(folder / "prc").at("options").at("load") == 0);
}

TEST_CASE("every form, diagonal, recipe, decay and router trains with two views") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  int number = 0;
  const auto loss_of = [&](const char* name, const Arguments& more) {
    const auto out = folder / std::to_string(number++);
    Arguments all = train(data, out) + Arguments{"--epochs", "1", "--prc", "0.5"} + more;
    const auto padding = std::find(all.begin(), all.end(), "--crop-padding");
    all.erase(padding, padding + 2);  // which has no effect on some views
    const Ending ending = run(all);
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    return metrics(out, "train").front().at("aux_losses").at(name).get<double>();
  };
  CHECK(loss_of("pairwise_l2", {"--prc-form", "l2", "--prc-views", "paper"}) > 0);
  CHECK(loss_of("pairwise_jsd", {"--prc-form", "jsd", "--prc-views", "crop"}) > 0);
  CHECK(loss_of("pairwise_jsd_topk", {"--prc-form", "jsd_topk", "--prc-jitter", "0.3"}) != 0);
  CHECK(loss_of(prc_loss,
                {"--prc-diagonal", "position", "--pooling", "token", "--importance", "0.01"}) > 0);
  CHECK(loss_of(prc_loss, {"--prc-diagonal", "position", "--pooling", "token", "--prc-class-pair",
                           "--load", "0.01"}) > 0);
  CHECK(loss_of(prc_loss, {"--prc-validity", "content", "--prc-decay", "linear", "--k", "1"}) > 0);
  CHECK(loss_of(prc_loss, {"--router", "soft"}) > 0);
  CHECK(loss_of(prc_loss, {"--router", "softmax_expert_choice"}) > 0);
  // Nothing is left of either part of the loss.
  CHECK(loss_of(prc_loss, {"--prc-lambda-d", "0", "--prc-lambda-o", "0"}) == 0);
}

TEST_CASE("each layer has its share of --prc") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto first_loss = [&](const std::string& shares) {
    const auto out = folder / shares;
    const Ending ending =
        run(train(data, out) + Arguments{"--epochs", "1", "--log-every", "1", "--moe", "every-1",
                                         "--prc", "0.5", "--prc-layers", shares});
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    return metrics(out, "train").front().at("aux_losses").at(prc_loss).get<double>();
  };
  const double one = first_loss("1,0"), other = first_loss("0,1");
  CHECK(one > 0);
  CHECK(other > 0);
  CHECK(first_loss("0,0") == 0);
  CHECK(first_loss("2,0.5") == doctest::Approx(2 * one + 0.5 * other).epsilon(1e-5));
  const auto refused = [&](const char* shares) {
    return run(train(data, folder / "run") +
               Arguments{"--moe", "every-1", "--prc", "1", "--prc-layers", shares})
        .err;
  };
  for (const char* shares : {"1", "1,2,3", "1,-2", "1,", "1;2", "a,1"})
    CHECK(refused(shares) == Containing("expected 2 numbers >= 0 with ',' between them"));
}

TEST_CASE("the position form warns in one line unless something balances") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  int number = 0;
  const auto warnings = [&](const Arguments& more) {
    const Ending ending =
        run(train(data, folder / std::to_string(number++)) +
            Arguments{"--epochs", "1", "--prc", "1", "--prc-diagonal", "position"} + more);
    REQUIRE(ending.code == 0);
    return ending.err;
  };
  const std::string text = warnings({});
  CHECK(text == Containing("warning: --prc-diagonal position hardly balances"));
  CHECK(std::count(text.begin(), text.end(), '\n') == 1);
  CHECK(warnings({"--losses", "router_z"}) == Containing("warning: "));
  CHECK(warnings({"--losses", "switch_balance"}).empty());
  CHECK(warnings({"--importance", "0.01"}).empty());
  CHECK(warnings({"--bias-rate", "0.001"}).empty());
}

TEST_CASE("what --prc cannot do is refused by name, value and expectation") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto refused = [&](const Arguments& more) {
    const Ending ending = run(train(data, folder / "run") + more);
    CHECK(ending.code == 2);
    CHECK_FALSE(fs::exists(folder / "run"));
    return ending.err;
  };
  CHECK(refused({"--prc", "-1"}) == Containing("prc is -1, expected >= 0"));
  CHECK(refused({"--prc", "1", "--mixup", "0.2"}) ==
        Containing("mixup is 0.2, expected 0 beside prc"));
  CHECK(refused({"--prc", "1", "--dense"}) == Containing("expected 0 beside dense"));
  CHECK(refused({"--prc", "1", "--moe", "none"}) == Containing("no block has experts"));
  CHECK(refused({"--prc", "1", "--prc-form", "kl"}) ==
        Containing("prc_form is 'kl', expected prc, l2, jsd or jsd_topk"));
  CHECK(refused({"--prc", "1", "--prc-views", "dark"}) ==
        Containing("views are 'dark', expected light, crop or paper"));
  CHECK(refused({"--prc", "1", "--prc-class-pair"}) ==
        Containing("prc_class_pair is true, expected pooling by token"));
  CHECK(refused({"--prc-form", "l2"}) ==
        Containing("--prc-form has no effect without --prc WEIGHT"));
  CHECK(refused({"--prc", "1", "--prc-form", "l2", "--prc-lambda-o", "1"}) ==
        Containing("--prc-lambda-o has no effect beside --prc-form l2"));
  CHECK(refused({"--losses", "pairwise_l2"}) == Containing("expected --prc (and --prc-form)"));
}
