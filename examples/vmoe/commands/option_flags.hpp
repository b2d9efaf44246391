#pragma once

#include <map>
#include <string>

#include "options.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace vmoe {

/// A flag for each of the Options, unread: what they mean is decided when the configuration file,
/// which they win over, has been read.
class OptionFlags {
 public:
  void add(CLI::App& app);
  /// Sets the options whose flags were there, and adds their names.
  void apply(Options& options, OptionNames& given) const;

 private:
  std::map<std::string, CLI::Option*> flags_;
};

}  // namespace vmoe
