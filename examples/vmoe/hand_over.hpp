#pragma once

#include <string>

namespace vmoe {

/// Becomes the program of another backend, which lies beside this one: vmoe for the CPU, vmoe_cuda for a GPU. So who has no
/// GPU needs none of its libraries. `arguments` as main has them, ended by a null pointer.
/// @throws moxie::config_error for a backend that there is not, or was not built; moxie::io_error
[[noreturn]] void hand_over(const std::string& backend, char** arguments);

}  // namespace vmoe
