#pragma once

#include "commands/command.hpp"

namespace vmoe {

std::unique_ptr<Command> train_command();
std::unique_ptr<Command> eval_command();
std::unique_ptr<Command> stability_command();
std::unique_ptr<Command> report_command();
std::unique_ptr<Command> attack_command();
std::unique_ptr<Command> certify_command();
std::unique_ptr<Command> dual_command();
std::unique_ptr<Command> upcycle_command();

}  // namespace vmoe
