#pragma once

#include <filesystem>
#include <string>

#include "stability.hpp"
#include "trainer.hpp"

namespace vmoe {

/// What the arguments of the program ask for.
struct CommandLine {
  enum class Command { help, train, eval, stability, report };
  Command command = Command::help;
  std::string text;              ///< help: what to print
  TrainRequest train;            ///< train
  std::filesystem::path target;  ///< eval: a checkpoint or a run; report: a run
  std::string data;              ///< eval
  Index threads = 0;             ///< eval
  StabilityRequest stability;    ///< stability
  std::string json;              ///< train, eval, stability: the file for the figures, or empty
  std::string routes;            ///< eval: the file for the routes, or empty

  /// Options come from the flags, else from the configuration file, else they have their defaults.
  /// @throws moxie::config_error naming the argument, with the nearest valid one if it is unknown
  static CommandLine parse(int argc, char** argv);
};

}  // namespace vmoe
