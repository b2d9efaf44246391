#include "commands/threat_flags.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <string_view>

#include "commands/flags.hpp"

namespace vmoe {
namespace {

bool read_number(std::string_view text, double& value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && stop == end && std::isfinite(value);
}

}  // namespace

void apply_fraction(const char* name, const std::string& text, double& value) {
  if (text.empty()) return;
  const std::size_t slash = text.find('/');
  const std::string_view all = text;
  double below = 1;
  if (!read_number(all.substr(0, slash), value) ||
      (slash != text.npos && (!read_number(all.substr(slash + 1), below) || !(below > 0))) ||
      !(value >= 0))
    moxie::throw_config("vmoe: --", name, " is '", text,
                        "', expected a number at least 0, or a fraction such as 8/255");
  value /= below;
}

void ThreatFlags::add(CLI::App& app) {
  add_text(app, "--eps", eps_, "NUMBER",
           "how far a pixel, from 0 to 1, may move (l2: the image); fractions are read", "8/255");
  add_text(app, "--norm", norm_, "NAME", "linf or l2", "linf");
}

moxie::Threat ThreatFlags::read(const char* who) const {
  moxie::Threat threat;
  apply_fraction("eps", eps_, threat.eps);
  if (norm_ == "l2") {
    threat.norm = moxie::Norm::l2;
  } else if (!norm_.empty() && norm_ != "linf") {
    moxie::throw_config(who, ": norm is '", norm_, "', expected linf or l2");
  }
  return threat;
}

}  // namespace vmoe
