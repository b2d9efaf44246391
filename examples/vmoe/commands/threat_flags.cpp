#include "commands/threat_flags.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "commands/flags.hpp"
#include "robust_options.hpp"

namespace vmoe {

void apply_fraction(const char* name, const std::string& text, double& value) {
  if (!text.empty()) value = fraction_of(flag_of(name), text);
}

void apply_pixel_fraction(const char* name, const std::string& text, double& value) {
  if (!text.empty()) value = pixel_fraction_of(flag_of(name), text);
}

std::vector<double> read_radii(const std::string& text) {
  std::vector<double> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    if (item.empty())
      moxie::throw_config("vmoe: --radii is '", text, "', expected numbers separated by commas");
    apply_pixel_fraction("radii", item, out.emplace_back());
    begin = end + 1;
  }
  return out;
}

void ThreatFlags::add(CLI::App& app) {
  add_text(app, "--eps", eps_, "NUMBER",
           "how far a pixel, from 0 to 1, may move (l2: the image); fractions are read", "8/255");
  add_text(app, "--norm", norm_, "NAME", "linf or l2", "linf");
}

moxie::Threat ThreatFlags::read(const char* who) const {
  moxie::Threat threat;
  if (norm_ == "l2") {
    threat.norm = moxie::Norm::l2;
    apply_fraction("eps", eps_, threat.eps);
  } else if (norm_.empty() || norm_ == "linf") {
    apply_pixel_fraction("eps", eps_, threat.eps);
  } else {
    moxie::throw_config(who, ": norm is '", norm_, "', expected linf or l2");
  }
  return threat;
}

}  // namespace vmoe
