#include "interrupt.hpp"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string_view>

namespace vmoe {
namespace {

volatile std::sig_atomic_t interrupted = 0;

void on_signal(int signal) {
  const int error = errno;  // the call that was interrupted may be about to look at it
  interrupted = 1;
  // Only what a signal handler may call. An evaluation that is running can take a while.
  constexpr std::string_view note = "\nvmoe: stopping after this step; once more stops at once\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, note.data(), note.size());
  std::signal(signal, SIG_DFL);
  errno = error;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupted = 0;
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}
InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}
bool InterruptGuard::requested() { return interrupted != 0; }

}  // namespace vmoe
