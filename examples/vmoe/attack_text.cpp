#include <cstdio>
#include <nlohmann/json.hpp>

#include "attack.hpp"

namespace vmoe {
namespace {

template <class... Values>
void line(std::string& out, const char* format, const Values&... values) {
  char text[240];
  std::snprintf(text, sizeof text, format, values...);
  out += text;
}

}  // namespace

std::string attack_text(const nlohmann::json& f) {
  const auto number = [](const nlohmann::json& value) { return value.get<double>(); };
  const auto text = [](const nlohmann::json& value) { return value.get<std::string>(); };
  const nlohmann::json& attack = f.at("attack");
  std::string out = text(f.at("checkpoint"));
  out.append("\n").append(text(attack.at("name"))).append(", ").append(text(attack.at("norm")));
  line(out, ", eps %.5g; %lld test images, seed %llu\n", number(attack.at("eps")),
       f.at("images").get<long long>(), f.at("seed").get<unsigned long long>());
  line(out, "SA %.2f %%   RA %.2f %%", number(f.at("sa")), number(f.at("ra")));
  const nlohmann::json& parts = f.at("parts");
  if (parts.at("defined") == true) {
    line(out, "   RA-E %.2f %%   RA-R %.2f %%  (%s, PGD of %lld steps)\n", number(parts.at("ra_e")),
         number(parts.at("ra_r")), text(parts.at("definition")).c_str(),
         parts.at("attack").at("steps").get<long long>());
  } else {
    out.append("   no RA-E, RA-R: ").append(text(parts.at("reason"))).append("\n");
  }
  out += "broken by";
  for (const nlohmann::json& m : f.at("members"))
    line(out, "  %s %lld", text(m.at("name")).c_str(), m.at("broke").get<long long>());
  out += '\n';
  const nlohmann::json& change = f.at("routing_change");
  if (!change.at("layers").empty()) {
    line(out, "\nroutes of the %lld points that fell, changed in %%\n",
         change.at("images").get<long long>());
    out += "     block    top-1      set  1 - IoU\n";
    for (const nlohmann::json& layer : change.at("layers"))
      line(out, "%10lld %8.2f %8.2f %8.2f\n", layer.at("block").get<long long>(),
           100 * number(layer.at("top1")), 100 * number(layer.at("set")),
           100 * number(layer.at("iou")));
  }
  out += "\nmean margin of a class, in scores\n      clean  attacked\n";
  for (const nlohmann::json& m : f.at("margins")) {
    if (m.at("images") == 0) continue;
    line(out, "%11.3f %9.3f  ", number(m.at("clean")), number(m.at("attacked")));
    out.append(text(m.at("class"))).append("\n");
  }
  return out;
}

}  // namespace vmoe
