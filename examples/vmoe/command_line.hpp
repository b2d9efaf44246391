#pragma once

#include <string>

#include "commands/command.hpp"

namespace vmoe {

/// Runs the command that the arguments name, or prints the help or version they ask for. With --backend of another name than
/// `backend`, the one that this program was compiled for, another program takes over.
/// @returns the exit status
/// @throws moxie::config_error naming the argument, with the nearest valid one if it is unknown
int run_command_line(const Commands& commands, const std::string& backend, int argc, char** argv);

/// Where help is to be had, for whoever made a mistake: that of the command that the arguments name, or the program's.
std::string help_hint(const Commands& commands, int argc, char** argv);

}  // namespace vmoe
