#include "vmoe_report/fake_run.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "vmoe/report/base64.hpp"

namespace fake {

namespace fs = std::filesystem;

namespace {

using Random = std::mt19937;

double uniform(Random& random) {  // portable, unlike the standard distributions
  return static_cast<double>(random()) / 4294967296.0;
}

double progress(const Run& run, int step) {
  return static_cast<double>(step) / (run.train_lines * run.steps_per_line);
}

Json train_line(const Run& run, int step, Random& random) {
  const double done = progress(run, step), noise = uniform(random) - 0.5;
  const double loss = 0.35 + 1.95 * std::exp(-4 * done) + 0.22 * noise;
  return {{"event", "train"},
          {"step", step},
          {"epoch", done * 20},
          {"loss", loss},
          {"main_loss", loss - 0.02},
          {"aux_loss", 0.02 + 0.03 * std::exp(-9 * done) + 0.004 * noise},
          {"accuracy", 0.1 + 0.78 * (1 - std::exp(-4 * done)) - 0.08 * noise},
          {"learning_rate", 0.001 * std::min(done / 0.05, 0.5 + 0.5 * std::cos(3.1416 * done))},
          {"gradient_norm", 0.8 + 1.5 * std::exp(-5 * done) + 0.5 * uniform(random)},
          {"images_per_s", 1480 + 60 * noise},
          {"dropped", 0.02 + 0.2 * std::exp(-8 * done) + 0.01 * uniform(random)},
          {"seconds", 0.085 * step}};
}

Json eval_line(const Run& run, const char* event, int step, Random& random) {
  const double done = progress(run, step);
  Json layers = Json::array();
  for (const int block : run.moe_blocks) {
    std::vector<double> load;
    for (int e = 0; e < run.experts; ++e) {
      // each expert settles at its own preference, from which training pulls it to balance
      const double preference = std::sin(1.7 * e + block) * (0.25 + 0.9 * std::exp(-5 * done));
      load.push_back(std::exp(preference + 0.15 * uniform(random)));
    }
    double sum = 0;
    for (const double share : load) sum += share;
    for (double& share : load) share /= sum;
    layers.push_back(
        {{"block", block}, {"load", load}, {"dropped", 0.01 + 0.1 * std::exp(-8 * done)}});
  }
  return {{"event", event},
          {"step", step},
          {"epoch", done * 20},
          {"loss", 0.62 + 1.6 * std::exp(-5 * done) + 0.12 * done + 0.03 * uniform(random)},
          {"accuracy", 0.1 + 0.69 * (1 - std::exp(-5 * done)) + 0.01 * uniform(random)},
          {"dropped", 0.01 + 0.1 * std::exp(-8 * done)},
          {"layers", layers}};
}

// A disc on a meadow under a sky: enough for routes that follow what a patch shows.
std::vector<unsigned char> picture(const Run& run, Random& random) {
  const double cx = 0.3 + 0.4 * uniform(random), cy = 0.35 + 0.3 * uniform(random);
  const double radius = 0.14 + 0.14 * uniform(random), horizon = 0.45 + 0.3 * uniform(random);
  const double tone[3] = {uniform(random), uniform(random), uniform(random)};
  std::vector<unsigned char> pixels;
  for (int row = 0; row < run.side; ++row)
    for (int col = 0; col < run.side; ++col)
      for (int c = 0; c < run.channels; ++c) {
        const double y = (row + 0.5) / run.side, x = (col + 0.5) / run.side;
        const double sky[3] = {0.55 + 0.3 * y, 0.7 + 0.2 * y, 0.95};
        const double meadow[3] = {0.3 + 0.3 * y, 0.5 + 0.1 * y, 0.2};
        double shade = y < horizon ? sky[c] : meadow[c];
        if (std::hypot(x - cx, y - cy) < radius) shade = 0.2 + 0.7 * tone[c] - 0.5 * (y - cy);
        shade = std::clamp(shade + 0.06 * (uniform(random) - 0.5), 0.0, 1.0);
        pixels.push_back(static_cast<unsigned char>(std::lround(255 * shade)));
      }
  return pixels;
}

Json routes_of(const Run& run, const std::vector<unsigned char>& pixels, Random& random) {
  const int cells = run.side / run.patch;
  Json layers = Json::array();
  for (std::size_t layer = 0; layer < run.moe_blocks.size(); ++layer) {
    Json patches = Json::array();
    for (int p = 0; p < cells * cells; ++p) {
      const int row = p / cells * run.patch, col = p % cells * run.patch;
      const auto at = static_cast<std::size_t>((row * run.side + col) * run.channels);
      const int kind =
          pixels[at] / 64 + pixels[at + static_cast<std::size_t>(run.channels) - 1] / 64;
      Json chosen = Json::array();
      for (int c = 0; c < run.choices; ++c) {
        const int salt = static_cast<int>(layer) * 3 + c * 5 + (uniform(random) < 0.15 ? 1 : 0);
        const bool dropped = uniform(random) < (c == 0 ? 0.03 : 0.12);
        chosen.push_back(dropped ? -1 : (kind * run.experts / 7 + salt) % run.experts);
      }
      patches.push_back(chosen);
    }
    layers.push_back(patches);
  }
  return layers;
}

}  // namespace

Json config(const Run& run) {
  return {{"preset", run.preset},
          {"seed", run.seed},
          {"data",
           {{"source", "cifar-10-binary.tar.gz"},
            {"format", "cifar"},
            {"classes", run.classes},
            {"train", 50000},
            {"test", 10000},
            {"height", run.side},
            {"width", run.side},
            {"channels", run.channels}}},
          {"model",
           {{"width", 192},
            {"blocks", 6},
            {"heads", 4},
            {"hidden", 384},
            {"patch", run.patch},
            {"experts", run.experts},
            {"k", run.choices},
            {"moe_blocks", run.moe_blocks},
            {"capacity", {{"factor", 1.05}, {"multiple_of", 4}, {"priority", "bpr"}}},
            {"parameters", 2974218}}},
          {"train",
           {{"epochs", 20},
            {"batch", 128},
            {"learning_rate", 0.001},
            {"flip", true},
            {"warmup", nullptr}}}};
}

std::vector<Json> metrics(const Run& run) {
  Random random(run.seed);
  std::vector<Json> lines;
  const int between = run.eval_lines > 0 ? std::max(1, run.train_lines / run.eval_lines) : 0;
  for (int i = 1; i <= run.train_lines; ++i) {
    lines.push_back(train_line(run, i * run.steps_per_line, random));
    if (between > 0 && i % between == 0)
      lines.push_back(eval_line(run, "eval", i * run.steps_per_line, random));
  }
  if (run.finished) {
    Json last = eval_line(run, "final", run.train_lines * run.steps_per_line, random);
    last["images_per_s"] = 1502.7;
    last["train_seconds"] = 0.085 * run.train_lines * run.steps_per_line;
    lines.push_back(last);
  }
  return lines;
}

Json routing(const Run& run) {
  Random random(run.seed + 1);
  const int cells = run.side / run.patch, classes = static_cast<int>(run.classes.size());
  Json layers = Json::array(), images = Json::array();
  for (const int block : run.moe_blocks) layers.push_back({{"block", block}});
  for (int i = 0; i < run.images; ++i) {
    const auto pixels = picture(run, random);
    const int label = static_cast<int>(random() % static_cast<std::uint32_t>(classes));
    const bool right = uniform(random) < 0.75;
    images.push_back({{"height", run.side},
                      {"width", run.side},
                      {"channels", run.channels},
                      {"pixels", vmoe::base64(pixels.data(), pixels.size())},
                      {"label", label},
                      {"prediction", right ? label : (label + 1) % classes},
                      {"probability", 0.35 + 0.6 * uniform(random)},
                      {"routes", routes_of(run, pixels, random)}});
  }
  return {{"patch", run.patch}, {"grid", {cells, cells}}, {"experts", run.experts},
          {"k", run.choices},   {"layers", layers},       {"classes", run.classes},
          {"images", images}};
}

void write(const fs::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  REQUIRE(out.good());
}

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_metrics(const fs::path& dir, const std::vector<Json>& lines) {
  std::string text;
  for (const Json& line : lines) text += line.dump() + "\n";
  write(dir / "metrics.jsonl", text);
}

void write_run(const fs::path& dir, const Run& run) {
  fs::create_directories(dir);
  write(dir / "config.json", config(run).dump(2));
  write_metrics(dir, metrics(run));
  if (run.images > 0) write(dir / "routing.json", routing(run).dump());
}

TemporaryDir::TemporaryDir() {
  std::random_device device;
  do {
    path = fs::temp_directory_path() / ("vmoe_report_" + std::to_string(device()));
  } while (!fs::create_directory(path));
}
TemporaryDir::~TemporaryDir() {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace fake
