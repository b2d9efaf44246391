#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "vmoe/report/attack_report.hpp"
#include "vmoe/report/base64.hpp"
#include "vmoe_report/fake_run.hpp"

namespace {

using nlohmann::json;

/// What an attack leaves of a made-up model: `side` pixels a side, patches of 4.
json fake_attack(int side, int channels, int images, const std::vector<int>& blocks,
                 const std::vector<std::string>& classes) {
  const int grid = side / 4;
  json points = json::array();
  for (int i = 0; i < images; ++i) {
    const auto pixels = [&](int shift) {
      std::vector<std::uint8_t> bytes;
      for (int v = 0; v < side * side * channels; ++v)
        bytes.push_back(static_cast<std::uint8_t>((v * 7 + i * 31 + shift * (v % 5)) % 256));
      return vmoe::base64(bytes.data(), bytes.size());
    };
    const auto routes = [&](int shift) {
      json all = json::array();
      for (std::size_t l = 0; l < blocks.size(); ++l) {
        json patches = json::array();
        for (int p = 0; p < grid * grid; ++p)
          patches.push_back(p % 11 == 10 ? json::array()
                                         : json({(p + shift * (p % 3)) % 8, p % 5 == 0 ? -1 : 3}));
        all.push_back(std::move(patches));
      }
      return all;
    };
    points.push_back(
        {{"number", 100 + i},
         {"label", i % 3},
         {"height", side},
         {"width", side},
         {"channels", channels},
         {"linf", 8.0 / 255},
         {"l2", 1.5},
         {"scale", 15.9},
         {"clean", pixels(0)},
         {"change", pixels(1)},
         {"attacked", pixels(2)},
         {"before", {{"prediction", i % 3}, {"probability", 0.9}, {"routes", routes(0)}}},
         {"after", {{"prediction", (i + 1) % 3}, {"probability", 0.6}, {"routes", routes(1)}}}});
  }
  json layers = json::array(), margins = json::array(), broken = json::array();
  for (const int b : blocks)
    layers.push_back({{"block", b}, {"top1", 0.25}, {"set", 0.5}, {"iou", 0.125}});
  for (const std::string& name : classes)
    margins.push_back({{"class", name}, {"images", 7}, {"clean", 2.5}, {"attacked", -0.5}});
  for (int i = 0; i < images; ++i) broken.push_back(100 + i);
  const json parts =
      blocks.empty()
          ? json{{"defined", false}, {"reason", "no MoE layers"}}
          : json{{"defined", true}, {"definition", "isolated"}, {"ra_e", 12.5}, {"ra_r", 50.0}};
  return {{"figures",
           {{"checkpoint", "run/checkpoint/step-00000010.safetensors"},
            {"attack", {{"name", "auto_attack"}, {"norm", "linf"}, {"eps", 8.0 / 255}}},
            {"images", 21},
            {"seed", 3},
            {"sa", 80.0},
            {"ra", 10.0},
            {"broken", broken},
            {"members", json::array({{{"name", "apgd-ce"}, {"broke", images}}})},
            {"margins", margins},
            {"routing_change", {{"images", images}, {"layers", layers}}},
            {"parts", parts}}},
          {"classes", classes},
          {"blocks", blocks},
          {"experts", 8},
          {"patch", 4},
          {"grid", {grid, grid}},
          {"images", points}};
}

}  // namespace

// attack_browser_test.py has this case write into MOXIE_REPORT_DIR and opens what it finds there.
TEST_CASE("pages of attacks for the browser") {
  const fake::TemporaryDir temporary;
  const char* wanted = std::getenv("MOXIE_REPORT_DIR");
  const std::filesystem::path dir =
      wanted != nullptr ? std::filesystem::path(wanted) : temporary.path;
  const std::vector<std::string> usual{"cat", "dog", "ship"};
  const std::vector<std::pair<std::string, json>> pages{
      {"usual", fake_attack(32, 3, 5, {1, 3}, usual)},
      {"grey_one_layer", fake_attack(28, 1, 2, {1}, usual)},
      {"whole_images", fake_attack(4, 3, 2, {0, 1}, usual)},
      {"dense", fake_attack(8, 3, 2, {}, usual)},
      {"none_fell", fake_attack(32, 3, 0, {1}, usual)},
      {"hostile",
       fake_attack(8, 3, 3, {0},
                   {"</script>", "<img src=x onerror=throw(1)>", "{{js}} & \"quotes\""})}};
  for (const auto& [name, data] : pages) {
    const std::string page = vmoe::attack_report(data);
    CHECK(page.size() > 20000);
    CHECK(page.find("<img src=x") == page.npos);
    std::filesystem::create_directories(dir / name);
    fake::write(dir / name / "report.html", page);
  }
}
