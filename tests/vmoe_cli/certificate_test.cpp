// Numbers behind the certificates of mixtures of whole networks, computed here from the tensors.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "moxie/io/safetensors.hpp"
#include "program.hpp"

namespace moxie::test::certificate_test {
namespace {

using namespace cli;
using fixtures::TemporaryFolder;
using nlohmann::json;
namespace fs = std::filesystem;

/// A checkpoint that can be changed.
class Weights {
 public:
  explicit Weights(const fs::path& file) : stored_(Safetensors::read(file)) {
    for (const StoredTensor& t : stored_.tensors())
      if (t.name[0] != '@') values_[t.name] = stored_.values<float>(t);
    info = json::parse(stored_.metadata().at("vmoe"));
  }
  json info;
  std::vector<float>& of(const std::string& name) { return values_.at(name); }

  /// What is not moxie's own needs no checksum.
  void write(const fs::path& to) const {
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, values] : values_)
      tensors.push_back(TensorToWrite::of(name, stored_.find(name)->shape, values.data()));
    write_safetensors(to, tensors, {{"vmoe", info.dump()}});
  }

  /// Sums of |kernel| into each of its outputs.
  std::vector<double> sums(const std::string& kernel) const { return sums(kernel, {1}); }
  /// Of one that reads normalised pixels, channel by channel, for pixels from 0 to 1.
  std::vector<double> pixel_sums(const std::string& kernel) const {
    return sums(kernel, info.at("std_dev").get<std::vector<double>>());
  }
  /// How fast each score of an expert with two blocks moves, the second of other channels.
  std::vector<double> slopes(const std::string& expert) const {
    const auto largest = [](const std::vector<double>& v) {
      return *std::max_element(v.begin(), v.end());
    };
    const auto block = [&](const std::string& name) {
      return largest(sums(expert + name + "/Conv_0/kernel")) *
             largest(sums(expert + name + "/Conv_1/kernel"));
    };
    const double body = largest(pixel_sums(expert + "stem/kernel")) * (1 + block("block_0")) *
                        (largest(sums(expert + "block_1/Conv_shortcut/kernel")) + block("block_1"));
    std::vector<double> out = sums(expert + "head/kernel");
    for (double& slope : out) slope *= body;
    return out;
  }

 private:
  std::vector<double> sums(const std::string& kernel, const std::vector<double>& divisors) const {
    const std::vector<float>& values = values_.at(kernel);
    const auto outputs = static_cast<std::size_t>(stored_.find(kernel)->shape.back());
    std::vector<double> out(outputs);
    for (std::size_t i = 0; i < values.size(); ++i)
      out[i % outputs] +=
          std::fabs(static_cast<double>(values[i])) / divisors[i / outputs % divisors.size()];
    return out;
  }

  Safetensors stored_;
  std::map<std::string, std::vector<float>> values_;
};

/// A trained mixture of two networks without norms, whose images deviate by another number in each
/// channel.
Weights mixture(const TemporaryFolder& folder) {
  const Ending trained =
      run(train_mixture(write_images(folder / "data"), folder / "run", "supervised") +
          Arguments{"--resnet-norm", "none", "--resnet-widths", "4,6"});
  REQUIRE_MESSAGE(trained.code == 0, trained.err);
  Weights w(newest_checkpoint(folder / "run"));
  w.info["std_dev"] = {0.5, 0.25, 0.125};
  return w;
}

/// Both experts as one, and so sure of the class 0 that nothing else matters to margins: they are
/// `margin`, whatever the image.
void make_sure(Weights& w, float margin) {
  for (const char* name :
       {"stem/kernel", "stem/bias", "head/kernel", "head/bias", "block_0/Conv_0/kernel",
        "block_0/Conv_0/bias", "block_0/Conv_1/kernel", "block_0/Conv_1/bias",
        "block_1/Conv_0/kernel", "block_1/Conv_0/bias", "block_1/Conv_1/kernel",
        "block_1/Conv_1/bias", "block_1/Conv_shortcut/kernel"})
    w.of(std::string("Moe/1/") + name) = w.of(std::string("Moe/0/") + name);
  for (const char* expert : {"Moe/0/", "Moe/1/"})
    w.of(std::string(expert) + "head/bias") = {margin, 0, 0};
}

/// "radii" of a command's figures, at shares of `radius`.
json radii_at(const TemporaryFolder& folder, const Arguments& command, double radius,
              const std::vector<double>& shares) {
  std::ostringstream list;
  list.precision(17);
  for (const double share : shares) list << (list.str().empty() ? "" : ",") << share * radius;
  const Ending ending =
      run(command + Arguments{"--radii", list.str(), "--json", folder / "figures.json"});
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  const json figures = json::parse(read_file(folder / "figures.json"));
  return figures.contains("points") ? figures.at("points")[0].at("radii") : figures.at("radii");
}

constexpr double third = 1.0 / 3;  // the images of class 0

}  // namespace

TEST_CASE("bounds of router and experts are those of their tensors, per unit of a pixel") {
  const TemporaryFolder folder;
  const Weights w = mixture(folder);
  w.write(folder / "w.safetensors");
  REQUIRE(run({"certify", folder / "w.safetensors", "--json", folder / "figures.json"}).code == 0);
  const json layer = json::parse(read_file(folder / "figures.json")).at("layers").at(0);
  const std::vector<double> router = w.pixel_sums("Moe/Router/kernel");
  CHECK(layer.at("gate").at("linf").get<double>() ==
        doctest::Approx(std::max(router[0], router[1])).epsilon(1e-12));
  for (std::size_t e = 0; e < 2; ++e) {
    CAPTURE(e);
    const std::vector<double> slopes = w.slopes("Moe/" + std::to_string(e) + "/");
    CHECK(layer.at("experts_linf").at("experts").at(e).get<double>() ==
          doctest::Approx(*std::max_element(slopes.begin(), slopes.end())).epsilon(1e-12));
  }
}

TEST_CASE("limited by route are the images that only the routing keeps below a radius") {
  const TemporaryFolder folder;
  Weights w = mixture(folder);
  make_sure(w, 1e3F);
  const auto file = folder / "sure.safetensors";
  w.write(file);
  const std::vector<double> slope = w.slopes("Moe/0/");
  const double radius = 1e3 / (slope[0] + std::max(slope[1], slope[2]));
  const json at = radii_at(folder, {"certify", file}, radius, {1e-9, 0.95, 1.05});
  CHECK(at[0].at("certified").get<double>() == doctest::Approx(third));
  CHECK(at[0].at("limited_by_route") == 0);
  CHECK(at[1].at("certified") == 0);
  CHECK(at[1].at("limited_by_route").get<double>() == doctest::Approx(third));
  // Without routes it would not be certified either
  CHECK(at[2].at("certified") == 0);
  CHECK(at[2].at("limited_by_route") == 0);
}

TEST_CASE("slopes of a dual model's scores are those of its experts and gates") {
  const TemporaryFolder folder;
  Weights w = mixture(folder);
  make_sure(w, 1e3F);
  const auto file = folder / "sure.safetensors";
  w.write(file);
  const std::vector<double> router = w.pixel_sums("Moe/Router/kernel");
  const std::vector<double> slope = w.slopes("Moe/0/");
  const double of_gate = 0.5 * std::max(router[0], router[1]);
  const double others = std::max(slope[1], slope[2]);
  // Of a part with itself, weighted by 1 - alpha and alpha. Some routes hold and some do not
  const auto largest_is = [&](const std::string& space, double radius, double below, double above) {
    CAPTURE(space);
    const json at =
        radii_at(folder, {"dual", file, file, "--space", space, "--alphas", "0.8", "--steps", "1"},
                 radius, {below, above});
    CHECK(at[0].at("certified").get<double>() + at[0].at("limited_by_route").get<double>() ==
          doctest::Approx(third));
    CHECK(at[1].at("certified") == 0);
    CHECK(at[1].at("limited_by_route") == 0);
  };
  // The margin is that times the gate, which is 1/2 to 1
  largest_is("logit", 1e3 / (slope[0] + of_gate * 1e3 + others), 0.45, 1.05);
  // One probability is 1, and each moves half as fast as the fastest score
  largest_is("probability", 1 / std::max(slope[0] + of_gate * 1e3, others), 0.95, 1.05);

  // Gates that are always 1 add nothing
  w.info["options"]["renormalize"] = true;
  w.write(file);
  largest_is("logit", 1e3 / (slope[0] + others), 0.95, 1.05);
}

TEST_CASE("certify looks at as many images as it is asked for, and at others than it knows") {
  const TemporaryFolder folder;
  mixture(folder);
  const auto figures = [&](const Arguments& more) {
    const Ending ending =
        run(Arguments{"certify", folder / "run", "--json", folder / "figures.json"} + more);
    REQUIRE_MESSAGE(ending.code == 0, ending.err);
    return json::parse(read_file(folder / "figures.json"));
  };
  const json all = figures({});
  CHECK(all.at("images") == 15);
  CHECK(all.at("data") == (folder / "data").string());
  CHECK(all.at("seed") == 0);
  CHECK(figures({"--n", "0"}) == all);
  CHECK(figures({"--n", "6", "--seed", "3"}).at("images") == 6);

  const auto other = write_images(folder / "other", 4, 2);
  fs::remove_all(folder / "data");
  write_images(folder / "data", 5, 2);
  CHECK(run({"certify", folder / "run"}).err ==
        fixtures::Containing("test images might be those it learned from; expected --data PATH"));
  const json elsewhere = figures({"--data", other});
  CHECK(elsewhere.at("images") == 6);
  CHECK(elsewhere.at("data") == other.string());
  for (const char* flag : {"--n", "--seed"})
    CHECK(run({"certify", folder / "run", flag, "many"}).err ==
          fixtures::Containing(std::string(flag) + " is 'many', expected a whole number"));
}

}  // namespace moxie::test::certificate_test
