// The program VMOE_TEST_PROGRAM, whose backend is a device, beside the program vmoe: the CPU.
#include <doctest/doctest.h>

#include "vmoe_cli/program.hpp"

using namespace cli;
using fixtures::TemporaryFolder;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const Setting on_device{.program = MOXIE_TEST_BIN_DIR "/" VMOE_TEST_PROGRAM};
const Setting on_cpu{};

void succeed(const Arguments& arguments, const Setting& setting) {
  const Ending ending = run(arguments, setting);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
}

/// What a command writes to --json.
json figures(const Arguments& arguments, const Setting& setting) {
  const TemporaryFolder folder;
  succeed(arguments + Arguments{"--json", folder / "figures.json"}, setting);
  return json::parse(read_file(folder / "figures.json"));
}

/// Sums of floats in another order, through several steps.
doctest::Approx near(const json& number, double epsilon = 1e-4) {
  return doctest::Approx(number.get<double>()).epsilon(epsilon);
}

/// Losses of every step and of the evaluations in between, and the shares of the experts.
void compare_runs(const fs::path& run, const fs::path& expected) {
  const std::vector<json> lines = metrics(run), wanted = metrics(expected);
  REQUIRE(lines.size() == wanted.size());
  CHECK(lines.size() > 3);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    CAPTURE(wanted[i].dump());
    CHECK(lines[i].at("event") == wanted[i].at("event"));
    CHECK(lines[i].at("step") == wanted[i].at("step"));
    CHECK(lines[i].at("loss").get<double>() == near(wanted[i].at("loss")));
    if (wanted[i].at("event") != "train") continue;
    CHECK(lines[i].at("aux_loss").get<double>() == near(wanted[i].at("aux_loss")));
    CHECK(lines[i].at("gradient_norm").get<double>() == near(wanted[i].at("gradient_norm"), 1e-2));
    CHECK(lines[i].at("dropped").get<double>() == near(wanted[i].at("dropped"), 0.1));
  }
}

/// As if the run had been stopped after the checkpoint of that step.
void forget_after(const fs::path& run, const std::string& step) {
  for (const fs::directory_entry& entry : fs::directory_iterator(run / "checkpoint"))
    if (entry.path().filename().string() > "step-" + step + ".safetensors")
      fs::remove(entry.path());
  REQUIRE(newest_checkpoint(run).filename() == "step-" + step + ".safetensors");
}

const Arguments six_steps{"--epochs",           "1", "--log-every", "1",
                          "--checkpoint-every", "3", "--threads",   "2"};

}  // namespace

TEST_CASE("a run on a device takes the steps of one on the CPU") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  struct Recipe {
    std::string name;
    Arguments options;
  };
  const Recipe recipes[] = {
      {"usual", {}},
      {"other",
       {"--optimizer", "sgd", "--learning-rate", "0.05", "--mixup", "0.2", "--loss", "sigmoid",
        "--group-images", "8", "--router", "softmax_expert_choice"}},
      {"pairs", {"--prc", "0.1", "--batch", "4", "--epochs", "0.5"}}};
  for (const Recipe& recipe : recipes) {
    CAPTURE(recipe.name);
    const fs::path cpu = folder / ("cpu_" + recipe.name), own = folder / recipe.name;
    succeed(train(data, cpu) + six_steps + recipe.options, on_cpu);
    succeed(train(data, own) + six_steps + recipe.options, on_device);
    compare_runs(own, cpu);
    CHECK(config_of(cpu).at("backend") == "cpu");
    CHECK(config_of(own).at("backend") != "cpu");
    CHECK(config_of(cpu).at("model") == config_of(own).at("model"));
    const json images = json::parse(read_file(own / "routing.json")).at("images");
    const json expected = json::parse(read_file(cpu / "routing.json")).at("images");
    REQUIRE(images.size() == expected.size());
    CHECK(images.size() >= 4);
    for (std::size_t i = 0; i < images.size(); ++i) {
      CHECK(images[i].at("pixels") == expected[i].at("pixels"));
      CHECK(images[i].at("probability").get<double>() == near(expected[i].at("probability")));
      CHECK(images[i].at("routes").front().size() == 4);  // patches
    }
  }
}

TEST_CASE("a run goes on where another backend left it") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const fs::path whole = folder / "whole";
  succeed(train(data, whole) + six_steps, on_cpu);

  const fs::path from_cpu = folder / "from_cpu", from_device = folder / "from_device";
  for (const bool begins_on_cpu : {true, false}) {
    CAPTURE(begins_on_cpu);
    const fs::path& moved = begins_on_cpu ? from_cpu : from_device;
    succeed(train(data, moved) + six_steps, begins_on_cpu ? on_cpu : on_device);
    forget_after(moved, "00000003");
    succeed({"train", "--resume", moved}, begins_on_cpu ? on_device : on_cpu);
    compare_runs(moved, whole);
  }
  CHECK(config_of(from_cpu).at("backend") == "cpu");
  CHECK(metrics(from_cpu, "final").front().at("backend") != "cpu");
  CHECK(metrics(from_device, "final").front().at("backend") == "cpu");
}

TEST_CASE("what is made of a checkpoint does not depend on the backend") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const fs::path trained = folder / "run";
  succeed(train(data, trained) + Arguments{"--report-images", "2"}, on_cpu);

  const Arguments eval{"eval", trained, "--routes", folder / "routes"};
  const json cpu = figures(eval, on_cpu), own = figures(eval, on_device);
  CHECK(own.at("loss").get<double>() == near(cpu.at("loss"), 1e-5));
  CHECK(own.at("accuracy") == cpu.at("accuracy"));
  CHECK(own.at("layers").front().at("load") == cpu.at("layers").front().at("load"));

  const Arguments stability{"stability", trained, "--images", "5",           "--levels",
                            "1",         "--pgd", "0.1",      "--pgd-steps", "2"};
  const json moved = figures(stability, on_device).at("models").front();
  const json expected = figures(stability, on_cpu).at("models").front();
  for (const char* view : {"crop", "flip", "pgd"})
    CHECK(moved.at(view).at("true_class_probability").get<double>() ==
          near(expected.at(view).at("true_class_probability")));

  const Arguments attack{
      "attack", trained, "--attack", "pgd",     "--steps", "2",        "--eps",
      "0.2",    "--n",   "6",        "--batch", "4",       "--report", folder / "attack.html"};
  const json broken = figures(attack, on_device), as = figures(attack, on_cpu);
  for (const char* key : {"sa", "ra", "broken", "routing_change"})
    CHECK(broken.at(key) == as.at(key));
  CHECK(broken.at("parts").at("ra_e") == as.at("parts").at("ra_e"));

  CHECK(figures({"certify", trained}, on_device) == figures({"certify", trained}, on_cpu));
  succeed({"report", trained, trained, "--images", "2", "--levels", "1", "--out",
           folder / "compared.html"},
          on_device);
}

TEST_CASE("robust training, dual models and upcycling run on a device") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const Arguments brief{"--epochs", "0.5", "--log-every", "1", "--resnet-norm", "none", "--k", "1"};
  const fs::path cpu = folder / "cpu", own = folder / "own";
  for (const char* objective : {"rt_er", "jtdmoe"}) {
    CAPTURE(objective);
    for (const auto& [out, setting] : {std::pair(cpu, on_cpu), std::pair(own, on_device)}) {
      fs::remove_all(out);
      succeed(train_mixture(data, out, objective) + brief, setting);
    }
    const json first = metrics(own).front(), expected = metrics(cpu).front();
    CHECK(first.at("loss").get<double>() == near(expected.at("loss")));
    CHECK(metrics(own, "final").front().at("robust").at("sa") ==
          near(metrics(cpu, "final").front().at("robust").at("sa"), 0.2));
  }
  const Arguments sweep{"dual", cpu,        "--n", "4",       "--steps",
                        "1",    "--alphas", "0.7", "--radii", "0.01"};
  CHECK(figures(sweep, on_device).at("points") == figures(sweep, on_cpu).at("points"));

  const fs::path dense = folder / "dense", grown = folder / "grown";
  succeed(train(data, dense) + Arguments{"--epochs", "0.5", "--moe", "none"}, on_device);
  succeed({"upcycle", dense, "--out", grown, "--moe", "last-1", "--experts", "4"}, on_device);
  succeed({"train", "--resume", grown}, on_cpu);
}
