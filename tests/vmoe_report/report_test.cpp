// What stands in a report.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "vmoe_report/run_fixture.hpp"

namespace {

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE_FIXTURE(RunFixture, "write_report gives the page every record of the run") {
  const fake::Json page = data();

  CHECK(page["config"] == fake::config(run));
  CHECK(page["routing"] == fake::routing(run));
  CHECK(page["train"]["step"].size() == 20);
  CHECK(page["train"]["per_point"] == 1);
  CHECK(page["train"]["steps"] == std::vector<int>(20, 10));
  CHECK(page["evals"].size() == 4);
  CHECK(page["evals"].back()["final"] == true);
  CHECK(page["evals"].back()["images_per_s"] == 1502.7);
  CHECK(page["last"]["step"] == 200);
}

TEST_CASE_FIXTURE(RunFixture, "write_report leaves one file, the same each time") {
  const std::string first = page();

  CHECK(page() == first);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path))
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
  fake::write_run(path, run);

  const std::string html = page();

  CHECK(occurrences(html, "</script") == scripts);
  CHECK(occurrences(html, "<!--") == 0);
  CHECK(occurrences(html, "<img") == 0);
  CHECK(html.find("<title>V-MoE run: &lt;/title&gt;&lt;script&gt;") != html.npos);
  CHECK(data()["routing"]["classes"] == fake::Json(run.classes));
}

TEST_CASE_FIXTURE(RunFixture,
                  "a run is called by its preset, a mixture of whole networks by its model") {
  CHECK(page().find("<title>V-MoE run: cifar10-small</title>") != std::string::npos);
  fake::Json config = fake::config(run);
  for (const std::string model : {"vit", "image_moe"}) {
    const std::string name = model == "vit" ? "cifar10-small" : model;
    config["options"] = {{"model", model}};
    fake::write(path / "config.json", config.dump());
    CHECK(page().find("<title>V-MoE run: " + name + "</title>") != std::string::npos);
    CHECK(data()["name"] == name);
  }
}

TEST_CASE_FIXTURE(RunFixture, "of repeated steps the later line wins") {
  auto lines = fake::metrics(run);
  fake::Json again = lines.front();
  again["loss"] = 77;
  lines.push_back(again);
  fake::write_metrics(path, lines);

  const fake::Json page = data();

  CHECK(page["train"]["step"].size() == 20);
  CHECK(page["train"]["loss"][0] == 77);
  CHECK(page["last"]["step"] == 200);
}

TEST_CASE_FIXTURE(RunFixture, "a long training curve is thinned to means of neighbours") {
  std::vector<fake::Json> lines;
  for (int step = 1; step <= 4500; ++step)
    lines.push_back({{"event", "train"}, {"step", step}, {"loss", step % 3}});
  lines[4]["loss"] = nullptr;  // steps 4, 5, 6: losses 1, none, 0
  fake::write_metrics(path, lines);

  const fake::Json train = data()["train"];

  CHECK(train["per_point"] == 3);
  CHECK(train["loss"].size() == 1500);
  CHECK(train["loss"][0] == 1);
  CHECK(train["loss"][1] == 0.5);
  CHECK(train["step"][1] == 5);
  CHECK(train["accuracy"][1].is_null());
  CHECK(train["steps"] == std::vector<int>(1500, 3));
}

TEST_CASE_FIXTURE(RunFixture,
                  "a point of the training curve says of how many steps it is the mean") {
  std::vector<fake::Json> lines;
  for (const int step : {20, 40, 60, 63})
    lines.push_back({{"event", "train"}, {"step", step}, {"loss", 1}});
  fake::write_metrics(path, lines);
  CHECK(data()["train"]["steps"] == std::vector<int>{20, 20, 20, 3});

  lines.front()["step"] = 0;  // at least one
  fake::write_metrics(path, lines);
  CHECK(data()["train"]["steps"] == std::vector<int>{1, 40, 20, 3});
}

TEST_CASE_FIXTURE(RunFixture, "a run that has just begun has a report") {
  fake::write_metrics(path, {});
  std::filesystem::remove(path / "routing.json");

  const fake::Json page = data();

  CHECK(page["last"].is_null());
  CHECK(page["evals"].empty());
  CHECK(page["routing"].is_null());
}
