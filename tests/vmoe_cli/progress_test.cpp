#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <thread>

#include "program.hpp"
#include "vmoe/progress.hpp"
#include "vmoe/stopwatch.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;

namespace {

/// What lies between redraws, without control sequences.
std::vector<std::string> rows(const std::string& screen) {
  std::string plain;
  for (std::size_t i = 0; i < screen.size(); ++i) {
    if (screen.compare(i, 3, "\033[K") == 0) {
      i += 2;
    } else {
      plain += screen[i] == '\r' ? '\n' : screen[i];
    }
  }
  std::vector<std::string> out;
  std::istringstream in(plain);
  for (std::string row; std::getline(in, row);)
    if (row.find("images/s ") != std::string::npos || row.find("epoch ") == 0 ||
        row.find("] epoch ") != std::string::npos)
      out.push_back(row);
  return out;
}

}  // namespace

TEST_CASE("on a terminal each epoch has a bar with its figures") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Ending ending = run(train(data, folder / "run") + Arguments{"--log-every", "1000"},
                            {.terminal = true, .columns = 160});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  const std::vector<std::string> drawn = rows(ending.out);
  REQUIRE(drawn.size() >= 4);  // the first step, and the end of each of 3 epochs
  for (const std::string& row : drawn) {
    for (const char* figure : {"loss ", "accuracy ", "dropped ", " images/s", " left"})
      CHECK(row == Containing(figure));
    // Long before the first line of metrics.
    CHECK_FALSE(row == Containing("loss 0.0000"));
    CHECK_FALSE(row == Containing(" 0 images/s"));
  }
  for (const char* epoch : {"epoch 1.00/3", "epoch 2.00/3", "epoch 3.00/3"})
    CHECK(ending.out == Containing("[########################] " + std::string(epoch)));
}

TEST_CASE("on a narrow terminal a redraw stays in its row") {
  const TemporaryFolder folder;
  const Ending ending =
      run(train(write_images(folder / "data"), folder / "run"), {.terminal = true, .columns = 50});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  const std::vector<std::string> drawn = rows(ending.out);
  REQUIRE(drawn.size() >= 4);
  for (const std::string& row : drawn) CHECK(row.size() <= 49);
  CHECK(vmoe::progress_row("text", 0.5, 40) == "[############............] text");
  CHECK(vmoe::progress_row("text", 1, 20) == "[############] text");
  CHECK(vmoe::progress_row("text", 0, 15) == "text");
  CHECK(vmoe::progress_row("text", 0, 3) == "te");
  CHECK(vmoe::progress_row("text", 0, 0).empty());
}

TEST_CASE("elsewhere progress is plain lines") {
  const TemporaryFolder folder;
  const Ending ending = run(train(write_images(folder / "data"), folder / "run"));
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(ending.err.empty());
  for (const char control : {'\r', '\033', '#'})
    CHECK(ending.out.find(control) == std::string::npos);
  for (const char* line :
       {"\nepoch 1.00/3  loss ", "\neval after epoch 2.00: ", "\nfinal after ", "\nreport: "})
    CHECK(ending.out == Containing(line));
}

TEST_CASE("metrics have a line for each log-every steps and each evaluation") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  const Ending ending = run(train(write_images(folder / "data"), out) +
                            Arguments{"--log-every", "4", "--eval-every", "1.5"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  std::vector<int> steps;
  for (const auto& line : metrics(out, "train")) {
    steps.push_back(line.at("step"));
    CHECK(line.at("images_per_s") > 0);
    CHECK(line.at("dropped") >= 0);
    CHECK(line.at("dropped") <= 1);
    CHECK(line.at("loss") ==
          doctest::Approx(line.at("main_loss").get<double>() + line.at("aux_loss").get<double>()));
  }
  CHECK(steps == std::vector<int>{4, 8, 12, 16, 18});
  REQUIRE(metrics(out, "eval").size() == 1);
  CHECK(metrics(out, "eval").front().at("step") == 9);
  CHECK(metrics(out).back().at("event") == "final");
  CHECK(metrics(out).back().at("step") == 18);
}

TEST_CASE("a pause is not counted as training") {
  vmoe::Stopwatch watch(5);
  {
    const vmoe::Stopwatch::Pause pause(watch);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  CHECK(watch.seconds() >= 5);
  CHECK(watch.seconds() < 5.25);
}

TEST_CASE("a run ends with the load of each expert, the accuracy and the share that was dropped") {
  const TemporaryFolder folder;
  const auto out = folder / "run";
  const Ending ending = run(train(write_images(folder / "data"), out) +
                            Arguments{"--moe", "every-1", "--eval-capacity-factor", "0.8"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  const auto last = metrics(out).back();
  REQUIRE(last.at("layers").size() == 2);
  for (const auto& layer : last.at("layers")) {
    const std::string begin = "\nblock " + layer.at("block").dump() + ": load of the experts in %:";
    const std::size_t at = ending.out.find(begin);
    REQUIRE(at != std::string::npos);
    std::istringstream line(ending.out.substr(at + begin.size()));
    double sum = 0;
    for (const auto& share : layer.at("load")) {
      double shown = -1;
      REQUIRE(static_cast<bool>(line >> shown));
      CHECK(std::abs(shown - 100 * share.get<double>()) <= 0.051);  // of one digit
      sum += shown;
    }
    CHECK(layer.at("load").size() == 4);
    CHECK(std::abs(sum - 100) <= 0.21);
    char dropped[48];
    std::snprintf(dropped, sizeof dropped, "; dropped %.2f %%",
                  100 * layer.at("dropped").get<double>());
    std::string rest;
    std::getline(line, rest);
    CHECK(rest == dropped);
  }
  CHECK(last.at("dropped") > 0);
  char figures[96];
  std::snprintf(figures, sizeof figures, "\ntest accuracy %.2f %%, dropped %.2f %%, trained ",
                100 * last.at("accuracy").get<double>(), 100 * last.at("dropped").get<double>());
  CHECK(ending.out == Containing(figures));
}
