#include "vmoe/report/report.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "moxie/core/error.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// ---- a run directory that looks like a real one ----

struct FakeRun {
  int experts = 8;
  int choices = 2;
  std::vector<int> moe_blocks{1, 3};
  int train_lines = 400, eval_lines = 20, steps_per_line = 10;
  bool finished = true;
  int side = 32, channels = 3, patch = 4, images = 12;
  std::string preset = "cifar10-small";
  std::vector<std::string> classes{"airplane", "automobile", "bird",  "cat",  "deer",
                                   "dog",      "frog",       "horse", "ship", "truck"};
  std::uint32_t seed = 7;
};

using Random = std::mt19937;

double uniform(Random& random) {  // portable, unlike the standard distributions
  return static_cast<double>(random()) / 4294967296.0;
}

Json fake_config(const FakeRun& run) {
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

double progress(const FakeRun& run, int step) {
  return static_cast<double>(step) / (run.train_lines * run.steps_per_line);
}

Json fake_train(const FakeRun& run, int step, Random& random) {
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

Json fake_eval(const FakeRun& run, const char* event, int step, Random& random) {
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

std::vector<Json> fake_metrics(const FakeRun& run) {
  Random random(run.seed);
  std::vector<Json> lines;
  const int between = run.eval_lines > 0 ? std::max(1, run.train_lines / run.eval_lines) : 0;
  for (int i = 1; i <= run.train_lines; ++i) {
    lines.push_back(fake_train(run, i * run.steps_per_line, random));
    if (between > 0 && i % between == 0)
      lines.push_back(fake_eval(run, "eval", i * run.steps_per_line, random));
  }
  if (run.finished) {
    Json last = fake_eval(run, "final", run.train_lines * run.steps_per_line, random);
    last["images_per_s"] = 1502.7;
    last["train_seconds"] = 0.085 * run.train_lines * run.steps_per_line;
    lines.push_back(last);
  }
  return lines;
}

std::string base64(const std::vector<unsigned char>& bytes) {
  constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t here = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t word = 0;
    for (std::size_t b = 0; b < 3; ++b) word = word << 8 | (b < here ? bytes[i + b] : 0U);
    for (std::size_t d = 0; d < 4; ++d) out += d <= here ? digits[word >> (18 - 6 * d) & 63U] : '=';
  }
  return out;
}

// A disc on a meadow under a sky: enough for routes that follow what a patch shows.
std::vector<unsigned char> fake_pixels(const FakeRun& run, Random& random) {
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

Json fake_routes(const FakeRun& run, const std::vector<unsigned char>& pixels, Random& random) {
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

Json fake_routing(const FakeRun& run) {
  Random random(run.seed + 1);
  const int cells = run.side / run.patch, classes = static_cast<int>(run.classes.size());
  Json layers = Json::array(), images = Json::array();
  for (const int block : run.moe_blocks) layers.push_back({{"block", block}});
  for (int i = 0; i < run.images; ++i) {
    const auto pixels = fake_pixels(run, random);
    const int label = static_cast<int>(random() % static_cast<std::uint32_t>(classes));
    const bool right = uniform(random) < 0.75;
    images.push_back({{"height", run.side},
                      {"width", run.side},
                      {"channels", run.channels},
                      {"pixels", base64(pixels)},
                      {"label", label},
                      {"prediction", right ? label : (label + 1) % classes},
                      {"probability", 0.35 + 0.6 * uniform(random)},
                      {"routes", fake_routes(run, pixels, random)}});
  }
  return {{"patch", run.patch}, {"grid", {cells, cells}}, {"experts", run.experts},
          {"k", run.choices},   {"layers", layers},       {"classes", run.classes},
          {"images", images}};
}

// ---- files ----

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

void write_lines(const fs::path& dir, const std::vector<Json>& lines) {
  std::string text;
  for (const Json& line : lines) text += line.dump() + "\n";
  write(dir / "metrics.jsonl", text);
}

void write_run(const fs::path& dir, const FakeRun& run) {
  fs::create_directories(dir);
  write(dir / "config.json", fake_config(run).dump(2));
  write_lines(dir, fake_metrics(run));
  if (run.images > 0) write(dir / "routing.json", fake_routing(run).dump());
}

// A new directory of its own, removed at the end.
struct TemporaryDir {
  fs::path path;
  TemporaryDir() {
    std::random_device device;
    do {
      path = fs::temp_directory_path() / ("vmoe_report_" + std::to_string(device()));
    } while (!fs::create_directory(path));
  }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  ~TemporaryDir() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

struct RunFixture : TemporaryDir {
  FakeRun run{.train_lines = 20, .eval_lines = 4, .images = 2};
  RunFixture() { write_run(path, run); }

  std::string page() const {
    vmoe::write_report(path);
    return read(path / "report.html");
  }
  // What the page's script gets.
  Json data() const {
    const std::string html = page(), opening = "id=\"data\">";
    const std::size_t begin = html.find(opening) + opening.size();
    return Json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  }
  std::string error() const {
    try {
      vmoe::write_report(path);
    } catch (const moxie::io_error& e) {
      return e.what();
    }
    return "no error";
  }
  std::string expected_error(const std::string& what) const {
    return "vmoe::write_report: " + (path / what).string();
  }
};

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE_FIXTURE(RunFixture, "write_report gives the page every record of the run") {
  const Json page = data();

  CHECK(page["config"] == fake_config(run));
  CHECK(page["routing"] == fake_routing(run));
  CHECK(page["train"]["step"].size() == 20);
  CHECK(page["train"]["per_point"] == 1);
  CHECK(page["evals"].size() == 4);
  CHECK(page["evals"].back()["final"] == true);
  CHECK(page["evals"].back()["images_per_s"] == 1502.7);
  CHECK(page["last"]["step"] == 200);
}

TEST_CASE_FIXTURE(RunFixture, "write_report leaves one file, the same each time") {
  const std::string first = page();

  CHECK(page() == first);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  CHECK(names ==
        std::vector<std::string>{"config.json", "metrics.jsonl", "report.html", "routing.json"});
}

TEST_CASE_FIXTURE(RunFixture, "the page refers to nothing outside itself") {
  const std::string html = page();

  CHECK(occurrences(html, "http") == 2);  // the name of the SVG namespace, and http-equiv
  CHECK(occurrences(html, "www.w3.org/2000/svg") == 1);
  CHECK(occurrences(html, "src=") == 0);
  CHECK(occurrences(html, "@import") == 0);
  CHECK(occurrences(html, "{{") == 0);
}

TEST_CASE_FIXTURE(RunFixture, "text from the data cannot become markup") {
  const std::size_t scripts = occurrences(page(), "</script");
  run.preset = "</title><script>alert(1)</script>{{js}}";
  run.classes = {"</script><!--<script>", "<img src=x onerror=alert(1)>", "a & \"b\" \u2028 'c'"};
  write_run(path, run);

  const std::string html = page();

  CHECK(occurrences(html, "</script") == scripts);
  CHECK(occurrences(html, "<!--") == 0);
  CHECK(occurrences(html, "<img") == 0);
  CHECK(html.find("<title>V-MoE run: &lt;/title&gt;&lt;script&gt;") != html.npos);
  CHECK(data()["routing"]["classes"] == Json(run.classes));
}

TEST_CASE_FIXTURE(RunFixture, "of repeated steps the later line wins") {
  auto lines = fake_metrics(run);
  Json again = lines.front();
  again["loss"] = 77;
  lines.push_back(again);
  write_lines(path, lines);

  const Json page = data();

  CHECK(page["train"]["step"].size() == 20);
  CHECK(page["train"]["loss"][0] == 77);
  CHECK(page["last"]["step"] == 200);
}

TEST_CASE_FIXTURE(RunFixture, "a long training curve is thinned to means of neighbours") {
  std::vector<Json> lines;
  for (int step = 1; step <= 4500; ++step)
    lines.push_back({{"event", "train"}, {"step", step}, {"loss", step % 3}});
  lines[4]["loss"] = nullptr;  // steps 4, 5, 6: losses 1, none, 0
  write_lines(path, lines);

  const Json train = data()["train"];

  CHECK(train["per_point"] == 3);
  CHECK(train["loss"].size() == 1500);
  CHECK(train["loss"][0] == 1);
  CHECK(train["loss"][1] == 0.5);
  CHECK(train["step"][1] == 5);
  CHECK(train["accuracy"][1].is_null());
}

TEST_CASE_FIXTURE(RunFixture, "a run that has just begun has a report") {
  write_lines(path, {});
  fs::remove(path / "routing.json");

  const Json page = data();

  CHECK(page["last"].is_null());
  CHECK(page["evals"].empty());
  CHECK(page["routing"].is_null());
}

TEST_CASE_FIXTURE(RunFixture, "a missing file is named") {
  SUBCASE("config") {
    fs::remove(path / "config.json");
    CHECK(error() == expected_error("config.json: cannot be read; a run directory has it"));
  }
  SUBCASE("metrics") {
    fs::remove(path / "metrics.jsonl");
    CHECK(error() == expected_error("metrics.jsonl: cannot be read; a run directory has it"));
  }
}

TEST_CASE_FIXTURE(RunFixture, "a malformed file is named with its line, and an old report stays") {
  write(path / "report.html", "old");
  std::string file, text, message;
  const auto wrong = [&](const char* name, const char* content, const char* expected) {
    file = name;
    text = content;
    message = expected;
  };
  const std::string train = R"({"event":"train","step":1})";
  SUBCASE("config") {
    wrong("config.json", "{\n \"seed\": 1,\n oops}", ":3: not valid JSON: syntax error");
  }
  SUBCASE("config cut short") { wrong("config.json", "{\n \"seed\":\n", ":3: not valid JSON: "); }
  SUBCASE("config too large a number") {
    wrong("config.json", "[1,\n1e999]", ":2: not valid JSON: number overflow");
  }
  SUBCASE("config of another kind") {
    wrong("config.json", "[1]", ":1: found [1], expected an object");
  }
  SUBCASE("metrics") {
    wrong("metrics.jsonl",
          "{\"event\":\"train\",\"step\":1}\n\n{\"event\":", ":3: not valid JSON: syntax error");
  }
  SUBCASE("metrics not UTF-8") {
    wrong("metrics.jsonl", "{\"event\":\"\xff\"}", ":1: not valid JSON: ");
  }
  SUBCASE("metrics of another kind") {
    wrong("metrics.jsonl", "3\n", ":1: found 3, expected an object");
  }
  SUBCASE("metrics without event") {
    wrong("metrics.jsonl", "{\"step\":1}\n", ":1: \"event\" is missing");
  }
  SUBCASE("metrics with a strange event") {
    wrong("metrics.jsonl", "{\"event\":\"nap\",\"step\":1}\r\n",
          ":1: \"event\" is \"nap\", expected \"train\", \"eval\" or \"final\"");
  }
  SUBCASE("metrics without step") {
    wrong("metrics.jsonl", "{\"event\":\"train\"}\n", ":1: \"step\" is missing");
  }
  SUBCASE("metrics with half a step") {
    wrong("metrics.jsonl", "{\"event\":\"train\",\"step\":1.5}\n", ":1: \"step\": found 1.5");
  }
  SUBCASE("metrics with text for a number") {
    wrong("metrics.jsonl", "{\"event\":\"eval\",\"step\":1,\"loss\":\"high\"}\n",
          ":1: \"loss\" is \"high\", expected a number or null");
  }
  SUBCASE("metrics without load") {
    wrong("metrics.jsonl", "{\"event\":\"eval\",\"step\":1,\"layers\":[{\"block\":0}]}\n",
          ":1: \"load\" is missing");
  }
  SUBCASE("routing") { wrong("routing.json", "{\"patch\":4,\n\n]", ":3: not valid JSON: "); }

  write(path / file, text);

  const std::string got = error();
  CAPTURE(got);
  CHECK(got.rfind(expected_error(file) + message, 0) == 0);
  CHECK(read(path / "report.html") == "old");
}

TEST_CASE_FIXTURE(RunFixture, "a wrong element of routing.json is named") {
  Json routing = fake_routing(run);
  std::string message;
  SUBCASE("grid") {
    routing["grid"] = {8};
    message = ": \"grid\" is [8], expected [rows, columns]";
  }
  SUBCASE("grid too large for the image") {
    routing["grid"] = {9, 8};
    message = ": images[0]: \"height\": found 32, expected an integer from 36 to 16384";
  }
  SUBCASE("pixels") {
    routing["images"][1]["pixels"] = "AAAA";
    message = ": images[1].pixels: holds 3 bytes, expected 3072 (height * width * channels)";
  }
  SUBCASE("not base64") {
    routing["images"][1]["pixels"] = "AA*A";
    message = ": images[1].pixels: not a base64 string";
  }
  SUBCASE("patches") {
    routing["images"][0]["routes"][1].erase(0);
    message = ": images[0].routes[1]: expected an array of 64 patches (\"grid\")";
  }
  SUBCASE("an expert that is not there") {
    routing["images"][0]["routes"][1][5] = {2, 8};
    message =
        ": images[0].routes[1][5]: found [2,8], expected an array of experts below 8, or -1 for a "
        "dropped choice";
  }
  SUBCASE("classes") {
    routing["classes"][2] = 4;
    message = ": \"classes\" holds 4, expected strings";
  }

  write(path / "routing.json", routing.dump());

  CHECK(error() == expected_error("routing.json") + message);
}

TEST_CASE_FIXTURE(RunFixture, "a report that cannot be written is an error and leaves no draft") {
  fs::create_directories(path / "report.html" / "in the way");

  CHECK(error().rfind(expected_error("report.html: cannot be written"), 0) == 0);
  CHECK_FALSE(fs::exists(path / "report.html.tmp"));
}

// browser_test.py has this case write into MOXIE_REPORT_DIR and opens what it finds there.
TEST_CASE("reports of every kind of run for the browser") {
  const TemporaryDir temporary;
  const char* wanted = std::getenv("MOXIE_REPORT_DIR");
  const fs::path dir = wanted != nullptr ? fs::path(wanted) : temporary.path;

  const std::vector<std::pair<std::string, FakeRun>> runs{
      {"usual", {.images = 24}},
      {"many_experts",
       {.experts = 64,
        .choices = 1,
        .moe_blocks = {1, 3, 5},
        .train_lines = 5000,
        .eval_lines = 100,
        .finished = false,
        .side = 56,
        .images = 6,
        .preset = "many-experts"}},
      {"dense", {.moe_blocks = {}, .train_lines = 30, .eval_lines = 3, .images = 0}},
      {"begun", {.train_lines = 0, .eval_lines = 0, .finished = false, .images = 0}},
      {"hostile",
       {.train_lines = 1,
        .eval_lines = 0,
        .side = 28,
        .channels = 1,
        .patch = 7,
        .images = 4,
        .preset = "</script><script>throw 1</script>",
        .classes = {"</script>", "<img src=x onerror=throw(1)>", "{{js}} & \"quotes\""}}}};
  for (const auto& [name, run] : runs) {
    write_run(dir / name, run);
    vmoe::write_report(dir / name);
    CHECK(fs::file_size(dir / name / "report.html") > 40000);
  }

  // a run that diverged has nulls, and one with soft or partial routing patches without an expert
  FakeRun run{.train_lines = 40, .eval_lines = 4, .images = 3, .preset = "diverged"};
  write_run(dir / "diverged", run);
  auto lines = fake_metrics(run);
  for (std::size_t i = lines.size() / 2; i < lines.size(); ++i)
    lines[i]["loss"] = lines[i]["gradient_norm"] = nullptr;
  write_lines(dir / "diverged", lines);
  Json routing = fake_routing(run);
  for (std::size_t p = 0; p < 64; p += 3) routing["images"][0]["routes"][0][p] = Json::array();
  write(dir / "diverged" / "routing.json", routing.dump());
  vmoe::write_report(dir / "diverged");
  CHECK(fs::file_size(dir / "diverged" / "report.html") > 40000);
}
