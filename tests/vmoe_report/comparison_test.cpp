// The page that compares models.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "vmoe/report/comparison.hpp"
#include "vmoe_report/fake_comparison.hpp"

namespace {

std::string page_of(const fake::Comparison& wanted) {
  return vmoe::comparison_page(nlohmann::json(fake::comparison(wanted)));
}

}  // namespace

TEST_CASE("a comparison refers to nothing outside itself, and text in it cannot become markup") {
  const std::string html =
      page_of({.models = {{.name = "</script><script>throw 1</script>"}, {.name = "<!--{{js}}"}},
               .classes = {"<img src=x onerror=throw(1)>", "</script>", "a & \"b\""}});
  CHECK(html.find("</script><script>throw") == html.npos);
  CHECK(html.find("<img") == html.npos);
  CHECK(html.find("<!--") == html.npos);
  CHECK(html.find("src=") == html.find("src=x"));  // inside of the data
  CHECK(html.find("@import") == html.npos);
  CHECK(html.find("<title>V-MoE: 2 models under noise</title>") != html.npos);
}

TEST_CASE("a fake comparison changes what it says") {
  const fake::Comparison wanted{.levels = 8};
  CHECK(fake::changed_patches(wanted, wanted.models[0], 0) == 0);
  CHECK(fake::changed_patches(wanted, wanted.models[0], 1) == 8);  // p = 7, 15, ... 63
  CHECK(fake::changed_patches(wanted, wanted.models[0], 8) == 64);
  CHECK(fake::changed_patches(wanted, wanted.models[1], 1) == 3);  // p = 19, 39, 59
}

// browser_test.py has this case write into MOXIE_REPORT_DIR and opens what it finds there.
TEST_CASE("comparisons of every kind for the browser") {
  const fake::TemporaryDir temporary;
  const char* wanted = std::getenv("MOXIE_REPORT_DIR");
  const std::filesystem::path dir =
      wanted != nullptr ? std::filesystem::path(wanted) : temporary.path;
  const std::vector<std::pair<std::string, fake::Comparison>> all{
      {"two_models", {}},
      {"unlike",
       {.models = {{.name = "wide", .experts = 300, .choices = 1, .moe_blocks = {3}},
                   {.name = "chosen", .experts = 16, .ragged = true, .patch = 8},
                   {.name = "dense", .moe_blocks = {}},
                   {.name = "early", .experts = 4, .choices = 1, .moe_blocks = {0}, .every = 3}},
        .levels = 7,
        .images = 2,
        .channels = 1}},
      {"all_dense", {.models = {{.moe_blocks = {}}, {.moe_blocks = {}}}, .images = 1}},
      {"eight",
       {.models = std::vector<fake::ComparedModel>(8, fake::ComparedModel{.moe_blocks = {2}}),
        .classes = {"</script>", "<img src=x onerror=throw(1)>", "{{js}} & \"quotes\""}}}};
  for (const auto& [name, comparison] : all) {
    const std::string page = page_of(comparison);
    CHECK(page.size() > 40000);
    std::filesystem::create_directories(dir / name);
    fake::write(dir / name / "comparison.html", page);
  }
}
