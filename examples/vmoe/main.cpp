#include <csignal>
#include <cstdio>
#include <new>

#include "command_line.hpp"
#include "commands/exit.hpp"
#include "moxie/core/error.hpp"
#include "trainer.hpp"

int main(int argc, char** argv) {
  const vmoe::Commands commands = vmoe::all_commands();
  // A file that grows beyond a limit (ulimit -f) is an error like a full disk, not the end.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return vmoe::run_command_line(commands, vmoe::program_backend(), argc, argv);
  } catch (const moxie::config_error& e) {
    std::fprintf(stderr, "error: %s\n(%s)\n", e.what(),
                 vmoe::help_hint(commands, argc, argv).c_str());
    return vmoe::exit_usage;
  } catch (const std::bad_alloc&) {
    std::fputs("error: not enough memory for this model, batch and data\n", stderr);
    return vmoe::exit_failed;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return vmoe::exit_failed;
  }
}
