#include <doctest/doctest.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "vmoe/report/report.hpp"
#include "vmoe_report/fake_run.hpp"

// browser_test.py has this case write into MOXIE_REPORT_DIR and opens what it finds there.
TEST_CASE("reports of every kind of run for the browser") {
  const fake::TemporaryDir temporary;
  const char* wanted = std::getenv("MOXIE_REPORT_DIR");
  const std::filesystem::path dir =
      wanted != nullptr ? std::filesystem::path(wanted) : temporary.path;

  const std::vector<std::pair<std::string, fake::Run>> runs{
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
    fake::write_run(dir / name, run);
    vmoe::write_report(dir / name);
    CHECK(std::filesystem::file_size(dir / name / "report.html") > 40000);
  }

  // one whose last line is of a single step, which was a lucky one
  const fake::Run even{.train_lines = 100, .eval_lines = 2, .images = 0, .preset = "short-end"};
  std::vector<fake::Json> steady = fake::metrics(even);
  steady.push_back({{"event", "train"}, {"step", 1001}, {"loss", 0.001}, {"accuracy", 1}});
  fake::write_run(dir / "short_end", even);
  fake::write_metrics(dir / "short_end", steady);
  vmoe::write_report(dir / "short_end");
  CHECK(std::filesystem::file_size(dir / "short_end" / "report.html") > 40000);

  // a run that diverged has nulls, and one with soft or partial routing patches without an expert
  fake::Run run{.train_lines = 40, .eval_lines = 4, .images = 3, .preset = "diverged"};
  fake::write_run(dir / "diverged", run);
  auto lines = fake::metrics(run);
  for (std::size_t i = lines.size() / 2; i < lines.size(); ++i)
    lines[i]["loss"] = lines[i]["gradient_norm"] = nullptr;
  fake::write_metrics(dir / "diverged", lines);
  fake::Json routing = fake::routing(run);
  for (std::size_t p = 0; p < 64; p += 3)
    routing["images"][0]["routes"][0][p] = fake::Json::array();
  fake::write(dir / "diverged" / "routing.json", routing.dump());
  vmoe::write_report(dir / "diverged");
  CHECK(std::filesystem::file_size(dir / "diverged" / "report.html") > 40000);
}
