#pragma once

#include <string>
#include <vector>

#include "moxie/robust/threat.hpp"

namespace CLI {
class App;
}

namespace vmoe {

/// Reads a number, or a fraction such as 8/255, if `text` is not empty.
/// @throws moxie::config_error naming the flag and the text
void apply_fraction(const char* name, const std::string& text, double& value);

/// The same of a distance between pixels from 0 to 1 in the L-infinity norm: at most 1.
void apply_pixel_fraction(const char* name, const std::string& text, double& value);

/// Those of `--radii`, in that norm, with commas between them; fractions are read.
/// @throws moxie::config_error naming the flag and the text
std::vector<double> read_radii(const std::string& text);

/// `--eps` and `--norm`: what an attacker may do to pixels from 0 to 1.
class ThreatFlags {
 public:
  void add(CLI::App& app);
  /// `who` is named in errors.   @throws moxie::config_error
  moxie::Threat read(const char* who) const;

 private:
  std::string eps_, norm_;
};

}  // namespace vmoe
