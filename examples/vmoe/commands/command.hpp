#pragma once

#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace vmoe {

/// A command of the program, `vmoe NAME ...`: a file of this folder each.
class Command {
 public:
  Command(std::string name, std::string description)
      : name_(std::move(name)), description_(std::move(description)) {}
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  virtual ~Command() = default;

  const std::string& name() const { return name_; }
  const std::string& description() const { return description_; }

  /// Adds the flags to the command's part of the command line, which is parsed before `run`.
  virtual void add(CLI::App& app) = 0;
  /// Reads what the flags hold and does the work.
  /// @returns the program's exit status
  /// @throws moxie::config_error for what the flags hold; moxie::error for the work
  virtual int run() = 0;

 private:
  std::string name_, description_;
};

using Commands = std::vector<std::unique_ptr<Command>>;

/// Every command, in the order in which `vmoe --help` lists them.
Commands all_commands();

}  // namespace vmoe
