#pragma once

#include "commands/command.hpp"

namespace vmoe {

/// Runs the command that the arguments name, or prints the help or version they ask for.
/// @returns the exit status
/// @throws moxie::config_error naming the argument, with the nearest valid one if it is unknown
int run_command_line(const Commands& commands, int argc, char** argv);

}  // namespace vmoe
