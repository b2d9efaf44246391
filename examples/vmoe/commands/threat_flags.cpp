#include "commands/threat_flags.hpp"

#include <CLI/CLI.hpp>

#include "commands/flags.hpp"
#include "robust_options.hpp"

namespace vmoe {

void apply_fraction(const char* name, const std::string& text, double& value) {
  if (!text.empty()) value = fraction_of(flag_of(name), text);
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
